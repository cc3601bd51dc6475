"""What clients see when tokens are streamed in chunks (`stream_interval` above 1).

The first token of an answer goes out at once, then a chunk whenever ``stream_interval`` more have come, and the
rest with the last token (vLLM, ``RequestState.make_request_output`` in vllm/v1/engine/output_processor.py; from
memory of versions before 0.33).  The client's inter-token latency is the gap between two chunks.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

from llmsim.schedulers.observed import step_times

if TYPE_CHECKING:
    from llmsim.results.steps import StepLog
    from llmsim.schedulers.batch import Batch
    from llmsim.schedulers.sequence import Sequence


class Stream:
    """One answer on its way: tokens that came, tokens held back, and when the last chunk went out."""

    __slots__ = ("came", "held_back", "sent_s")

    def __init__(self, sent_s: float) -> None:
        self.came = 0
        self.held_back = 0
        self.sent_s = sent_s


class ClientStreams:
    """Observes the scheduler of one replica and logs the gaps between the chunks that clients get.

    Args:
        interval: tokens of a chunk.
        log: the step log of the replica, which takes the gaps.
    """

    def __init__(self, interval: int, log: StepLog) -> None:
        self._interval = interval
        self._log = log
        self._streams: dict[Sequence, Stream] = {}
        self._served: dict[Batch, list[Sequence]] = {}

    def formed(self, batch: Batch) -> None:
        """Remember who decodes in a batch: its group has moved on when it ends."""
        if batch.decodes is not None and batch.verified is None:
            self._served[batch] = list(batch.decodes.served())

    def settled(self, batch: Batch, steps: int, finished: Many[Sequence]) -> None:
        """Hand the tokens of a batch to the streams."""
        times = step_times(batch, steps)
        for sequence in self._served.pop(batch, ()):
            self._stream(sequence, times)
        if batch.verified is not None:
            for sequence, tokens in zip(batch.verified.sequences, batch.verified.each, strict=True):
                self._stream_together(sequence, int(tokens), *times[0])
        for sequence in batch.sampling:
            self._stream(sequence, times)

    def _stream(self, sequence: Sequence, times: list[tuple[float, float]]) -> None:
        """Let a sequence have one token at the end of each of the steps ``times``."""
        stream = self._streams.get(sequence)
        if stream is None:
            stream = self._streams[sequence] = Stream(times[0][1])
            stream.came = 1
            times = times[1:]
        before, last = stream.held_back, len(times) - 1
        chunks = list(range(self._interval - before - 1, len(times), self._interval))
        stream.held_back = last - chunks[-1] if chunks else before + len(times)
        if self._ends(stream, sequence, len(times)) and stream.held_back:
            chunks.append(last)
        for place in chunks:
            self._send(stream, *times[place])

    def _stream_together(self, sequence: Sequence, tokens: int, start_s: float, end_s: float) -> None:
        """Let a sequence have ``tokens`` at once: drafts that were accepted; a chunk takes all that are there."""
        stream = self._streams[sequence]
        stream.held_back += tokens
        ends = self._ends(stream, sequence, tokens)
        if stream.held_back >= self._interval or (ends and stream.held_back):
            stream.held_back = 0
            self._send(stream, start_s, end_s)

    def _ends(self, stream: Stream, sequence: Sequence, tokens: int) -> bool:
        """Count tokens that came, and say whether they are the last ones."""
        stream.came += tokens
        if stream.came < sequence.target:
            return False
        del self._streams[sequence]
        return True

    def _send(self, stream: Stream, start_s: float, end_s: float) -> None:
        """Send a chunk at the end of a step."""
        self._log.chunk(end_s - stream.sent_s, start_s)
        stream.sent_s = end_s
