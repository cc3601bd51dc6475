"""When the first N output tokens of each request are out: what speech needs before it can begin.

An answer that is shorter than N counts with its last token, for then all there is to say is there.  Where tokens are
streamed in chunks (`llmsim.schedulers.client_streams`), token N is out with the chunk that it is in.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

from llmsim.schedulers.observed import step_end

if TYPE_CHECKING:
    from llmsim.schedulers.batch import Batch
    from llmsim.schedulers.sequence import Sequence


class _Answer:
    """The beginning of an answer: tokens that came, and those of them that went out."""

    __slots__ = ("came", "sent")

    def __init__(self, interval: int) -> None:
        self.came = 0
        self.sent = 1 - interval  # so the first token makes a chunk


class FirstTokens:
    """Observes the scheduler of one replica and notes when token N of each request is out.

    Only answers between their first and their N-th token are looked at, so what this costs does not grow with the
    batch.  Of a leap that token N lies in, the end of its own step is taken.

    Args:
        count: N.
        moments: takes the seconds by the id of the request.
        interval: tokens of a chunk (`stream_interval`).
    """

    def __init__(self, count: int, moments: dict[str, float], *, interval: int = 1) -> None:
        self._count = count
        self._moments = moments
        self._interval = interval
        self._begun: dict[Sequence, _Answer] = {}
        self._served: dict[Batch, list[Sequence]] = {}

    def formed(self, batch: Batch) -> None:
        """Remember which of the answers that have begun get tokens: the group has moved on when the batch ends."""
        begun = self._begun
        if begun and batch.decodes is not None and batch.verified is None:
            served = batch.decodes.served()
            members = served if isinstance(served, dict) else dict.fromkeys(served)
            here = [sequence for sequence in begun if sequence in members]
            if here:
                self._served[batch] = here
        for sequence, tokens in batch.chunks:
            # The next batch may be formed before this one has ended.
            if not sequence.generated and sequence.computed + tokens == sequence.total:
                begun[sequence] = _Answer(self._interval)

    def settled(self, batch: Batch, steps: int, finished: Many[Sequence]) -> None:
        """Hand the tokens of a batch to the answers."""
        begun = self._begun
        for sequence in self._served.pop(batch, ()):
            if sequence in begun:
                self._one_by_one(sequence, batch, steps)
        if not begun:
            return
        if batch.verified is not None:
            for sequence, tokens in zip(batch.verified.sequences, batch.verified.each, strict=True):
                if sequence in begun:
                    self._together(sequence, int(tokens), batch.end_s)
        for sequence in batch.sampling:
            if sequence in begun:
                self._together(sequence, 1, batch.end_s)
        for sequence in finished:
            if sequence in begun:  # a scheduler of one's own may end it early
                self._out(sequence, batch.end_s)

    def _one_by_one(self, sequence: Sequence, batch: Batch, steps: int) -> None:
        """Let an answer have one token in each of the ``steps`` steps of a batch."""
        answer, interval = self._begun[sequence], self._interval
        chunks = -(-(self._count - answer.sent) // interval)
        due = min(answer.sent + chunks * interval, sequence.target)
        if answer.came + steps >= due:
            self._out(sequence, step_end(batch, due - answer.came, steps))
            return
        answer.came += steps
        answer.sent += (answer.came - answer.sent) // interval * interval

    def _together(self, sequence: Sequence, tokens: int, end_s: float) -> None:
        """Let an answer have ``tokens`` at once; a chunk takes all that are there."""
        answer = self._begun[sequence]
        answer.came += tokens
        if answer.came - answer.sent >= self._interval:
            answer.sent = answer.came
        if answer.sent >= self._count or answer.came >= sequence.target:
            self._out(sequence, end_s)

    def _out(self, sequence: Sequence, moment_s: float) -> None:
        del self._begun[sequence]
        self._moments[sequence.request.id] = moment_s
