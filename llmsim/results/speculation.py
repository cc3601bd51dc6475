"""What speculative decoding has come to: drafts made, drafts accepted, and the figures that vLLM makes of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class SpeculationLog:
    """Beside the step log of a replica: what its batches spent on drafts, and how many were accepted.

    Args:
        drafts: drafts of a sequence and step, at most.

    Attributes:
        accepted: how many verifications have accepted 0, 1, ... drafts: [drafts + 1].
        draft_tokens: drafts that were verified.
        wasted: sequences that were verified after their end.
    """

    __slots__ = ("_draft_s", "_surplus", "accepted", "draft_tokens", "wasted")

    def __init__(self, drafts: int) -> None:
        self.accepted: Integers = np.zeros(drafts + 1, dtype=np.int64)
        self.draft_tokens = 0
        self.wasted = 0
        self._draft_s: list[float] = []
        self._surplus: list[tuple[int, int]] = []

    def append(self, draft_s: float, accepted: Integers, draft_tokens: int, surplus: int, wasted: int) -> None:
        """Add what belongs to one more row of the step log.

        Args:
            draft_s: seconds of the step that went into drafts.
            accepted: how many of its verifications accept 0, 1, ... drafts: [drafts + 1].
            draft_tokens: drafts that it verified.
            surplus: tokens that came beside one for each verified sequence.
            wasted: sequences that it verified after their end.
        """
        self.accepted += accepted
        self.draft_tokens += draft_tokens
        self.wasted += wasted
        if surplus:
            self._surplus.append((surplus, len(self._draft_s)))
        self._draft_s.append(draft_s)

    def draft_s(self) -> Floats:
        """Return the seconds that each row of the step log spent on drafts: [rows]."""
        return np.array(self._draft_s, dtype=np.float64)

    def surplus(self) -> tuple[Integers, Integers]:
        """Return tokens that came beside one for each verified sequence, and the rows that they came with."""
        table = np.array(self._surplus, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def figures(logs: Sequence[SpeculationLog]) -> dict[str, float | int | list[float] | None]:
    """Return the figures of all ``logs`` under the keys of ``vllm bench serve``.

    The acceptance rate is in per cent of the draft tokens, the length counts the token that is given in any case, and
    the rates by position are shares of all verifications.  As in vLLM, accepted drafts beyond a request's last token
    count.
    """
    accepted = np.sum([log.accepted for log in logs], axis=0)
    drafts = int(accepted.sum())
    draft_tokens = sum(log.draft_tokens for log in logs)
    total = int((accepted * np.arange(len(accepted))).sum())
    at_least = accepted[::-1].cumsum()[::-1][1:]
    return {
        "spec_decode_acceptance_rate": 100.0 * total / draft_tokens if draft_tokens else None,
        "spec_decode_acceptance_length": 1.0 + total / drafts if drafts else None,
        "spec_decode_num_drafts": drafts,
        "spec_decode_draft_tokens": draft_tokens,
        "spec_decode_accepted_tokens": total,
        "spec_decode_per_position_acceptance_rates": (at_least / drafts).tolist() if drafts else None,
    }
