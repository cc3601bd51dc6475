"""How far a sequence has come, wherever it is."""

from __future__ import annotations

from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.sequence import Sequence


def scheduled_output(sequence: Sequence) -> int:
    """Return the output tokens of a sequence, counting scheduled steps; those of a group's members are up to date."""
    group = sequence.slot
    if isinstance(group, DecodeGroup):
        return sequence.generated + sequence.base + group.clock - sequence.computed
    return sequence.generated
