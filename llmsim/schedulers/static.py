"""Static batching, as FasterTransformer served: a batch is padded and runs to its longest answer.

Requests that wait when the engine falls idle form a batch.  All prompts are computed as if they were as
long as the longest; then all sequences decode until the longest answer is complete, and only then do the
requests end and the next batch begins (the baseline of Orca, OSDI 2022, section 2).  First tokens are
counted when they are computed, ends when the batch ends.
"""

from __future__ import annotations

from collections import deque

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.sequence import Sequence


class StaticBatching:
    """One batch at a time, of at most ``max_num_seqs`` sequences whose padded length fits the cache.

    Args:
        options: the engine's options; only ``max_num_seqs`` is read.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
    """

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True) -> None:
        self.pool = pool
        self.leap = leap
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        self._seats = options.max_num_seqs
        self._held = 0
        self._steps_left = 0
        self._padded: Padded | None = None
        self._in_flight = 0

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it changes nothing while a batch runs."""
        self.waiting.append(sequence)
        return not self.running

    def next_batch(self) -> Batch | None:
        """Form a batch of all that fit when the last one is done, else decode on."""
        if self.running:
            if not self._steps_left or self._in_flight:
                return None
            assert self._padded is not None
            # A leap ends where an answer is complete, for from there on fewer clients get tokens.
            done = self._padded.clock + 1
            left = [sequence.target - done for sequence in self.running if sequence.target > done]
            batch = Batch([], self._padded, min(left) if self.leap else 1)
            batch.regular = len(left)
            self._padded.advance(batch.steps)
            self._steps_left -= batch.steps
            self._in_flight += 1
            return batch
        return self._form()

    def _form(self) -> Batch | None:
        """Take from the queue, in order, as many as the seats and the padded cache allow."""
        prompt = output = 0
        while self.waiting and len(self.running) < self._seats:
            head = self.waiting[0]
            longest = max(prompt, head.total), max(output, head.target)
            blocks = (len(self.running) + 1) * self.pool.most_held(sum(longest) - 1)
            if self.running and blocks > self.pool.blocks:
                break
            prompt, output = longest
            self._held = blocks
            self.running[self.waiting.popleft()] = None
        if not self.running:
            return None
        self.pool.free -= self._held
        members = list(self.running)
        batch = Batch([(sequence, sequence.total) for sequence in members], padded=[(prompt, 0)] * len(members))
        batch.admitted = members
        self._padded = Padded(self.pool, members, prompt)
        self._steps_left = output - 1
        self._in_flight += 1
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release everybody once the longest answer is complete."""
        self._in_flight -= 1
        if self._steps_left or self._in_flight:
            return []
        finished = list(self.running)
        for sequence in finished:
            sequence.generated = sequence.target
        self.running.clear()
        self.pool.free += self._held
        self._held = 0
        return finished

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a leap in flight."""
        assert self._padded is not None
        self._padded.advance(steps - batch.steps)
        self._steps_left += batch.steps - steps
        batch.steps = steps


class Padded(DecodeGroup):
    """A batch whose members all stand at the same padded length, and take no blocks beyond their reservation."""

    __slots__ = ("_sequences",)

    def __init__(self, pool: BlockPool, sequences: list[Sequence], prompt: int) -> None:
        super().__init__(pool)
        self._sequences = sequences
        self.count = count = len(sequences)
        self.base_sum = count * prompt
        for state in self.windows:
            state.growing = count if prompt < state.window else 0
            state.base_sum = state.growing * prompt

    def advance(self, steps: int) -> None:
        """Move the clock; all blocks were reserved when the batch was formed."""
        self.clock += steps

    def served(self) -> list[Sequence]:
        """Return those whose answers are not complete yet."""
        return [sequence for sequence in self._sequences if sequence.target > self.clock]

    def longest(self) -> int:
        """Return the attended tokens of every member in the next step."""
        return self.clock + 1 + self.base_sum // self.count
