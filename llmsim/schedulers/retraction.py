"""SGLang's running batch: who is counted, who decodes, and who is retracted when blocks run out.

Source: SGLang 0.5, ``managers/scheduler.py`` (``update_running_batch``, ``process_batch_result``) and
``managers/schedule_batch.py`` (``retract_decode``, ``release_req``), from memory.
"""

from __future__ import annotations

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.radix import RadixCache
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.decoding import DecodingScheduler
from llmsim.schedulers.polling import RequestPoll
from llmsim.schedulers.prefill_budget import RETRACT_DECODE_STEPS, NewTokenRatio
from llmsim.schedulers.sequence import Sequence


class RetractingScheduler(DecodingScheduler):
    """The part of SGLang's scheduler that decodes; what lets prompts in is another's (`SGLangScheduling`).

    Args:
        options: the engine's options.
        pool: the blocks of the engine.
        ratio: the part of their remaining tokens that those who run are believed to need.
        leap: whether decisions may stand for more than one step.
        interval: ``--scheduler-recv-interval``.

    Attributes:
        cache: prompts and answers that can be found again.
        ratio: as given.
    """

    def __init__(
        self, options: EngineOptions, pool: BlockPool, ratio: NewTokenRatio, *, leap: bool = True, interval: int = 1
    ) -> None:
        super().__init__(options, pool, leap=leap)
        self.cache = RadixCache(pool, keeps=options.enable_prefix_caching)
        self.ratio = ratio
        self._poll = RequestPoll(interval)
        self._chunked: Sequence | None = None  # the prompt under way
        self._unread: dict[Sequence, None] = {}  # those whose prompt is not in the cache yet
        self._full = False  # SGLang's `batch_is_full`: nobody is tried
        self._ended = 0  # who has ended, and is still counted until the next step that decodes
        self._ended_early = 0  # the same, from before the batch planned last was to begin
        self._counted = 0  # who ran, as SGLang counts, when the last step with prompts was formed
        self._prompts: Batch | None = None  # the last batch, if it computes prompts
        self._flying: Batch | None = None  # the last batch, until it has settled
        self._coming: set[Sequence] = set()  # who got a token from it, apart from a group

    # ------------------------------------------------------------------ what the engine asks

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it changes nothing while the door is closed."""
        if self._poll.on:
            self._poll.newcomers[sequence] = None
            return True
        self.waiting.add(sequence)
        return not self._full or bool(self._ended or self._ended_early)

    def next_batch(self) -> Batch | None:
        """Decide the next step, or the next steps."""
        batch = super().next_batch()
        if batch is not None and (batch.count or batch.chunks):
            self._flying = batch
        elif not self.running and not self.waiting:
            self.ratio.reset()
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come; prompts that are computed can be found from now on."""
        if batch is self._flying:
            self._flying = None
        if self._unread:
            for sequence in batch.sampling:
                if sequence in self._unread:
                    del self._unread[sequence]
                    self.cache.keep(sequence, sequence.given)
        finished = super().settle(batch, steps)
        for sequence in finished:
            self.cache.forget(sequence)
        if finished and batch is self._prompts:
            self._full = False
        elif batch is self._last:
            self._ended += len(finished)
        else:
            self._ended_early += len(finished)
        return finished

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a leap in flight."""
        self.ratio.count(steps - batch.steps)
        self._poll.count(steps - batch.steps)
        super().trim(batch, steps)

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone, or that has ended before anybody could foresee it."""
        self._ended += sequence in self.running
        if sequence in self._poll.newcomers:
            del self._poll.newcomers[sequence]
            sequence.gone = True
            return
        super().remove(sequence)
        self.cache.forget(sequence)

    def release(self, sequence: Sequence, known: int) -> None:
        """Free the blocks of a sequence; what is computed of it stays in the cache."""
        self.cache.release(sequence, known)

    def unseat(self, sequence: Sequence) -> None:
        """Take a running sequence out of wherever it is, and free its blocks."""
        if sequence is self._chunked:
            self._chunked = None
        self._unread.pop(sequence, None)
        super().unseat(sequence)

    # ------------------------------------------------------------------ the books

    def _absorb(self) -> None:
        """Bring the books up to date with the last batch: the prompts computed in it are among those who run now."""
        last = self._last
        if last is not None and last.steps > 1 and self._ended_early:
            self._let_go()  # its second step has done so
        self._ended += self._ended_early
        self._ended_early = 0
        super()._absorb()
        self._coming = set(self._flying.sampling) if self._flying is not None else set()
        if self._chunked is not None:
            self.cache.keep(self._chunked, self._chunked.computed)
        if self._prompts is not None and (self._chunked is not None or not self._counted):
            self._full = False
        self._prompts = None

    def _let_go(self) -> None:
        """Count nobody any more who has ended; if there was anybody, others are tried again."""
        if self._ended or self._ended_early:
            self._full = False
        self._ended = self._ended_early = 0

    def _running_requests(self) -> int:
        """Return who runs, as SGLang counts: without the prompt under way, and with those not let go yet."""
        return len(self.running) - (self._chunked is not None) + self._ended

    def _output(self, sequence: Sequence) -> int:
        """Return the output tokens of a running sequence that SGLang knows of: one on its way is not known."""
        tokens = sequence.generated
        if sequence.slot is self.group:
            tokens += sequence.base + self.group.clock - sequence.computed
        flying = self._flying
        if flying is not None and (flying.decodes is not None or sequence in self._coming):
            tokens -= 1
        return tokens

    # ------------------------------------------------------------------ those who decode

    def _decoding(self) -> list[Sequence]:
        """Return those outside of the group who decode."""
        return [one for one in self.partial if one.generated and one.remaining == 1 and one is not self._chunked]

    def _blocks_for(self, decoding: list[Sequence]) -> int:
        """Return the blocks that one token of the group and of each ``decoding`` one takes."""
        group = self.group
        needed = sum(self._blocks_of(sequence, 1) for sequence in decoding)
        return needed + (group.taken(group.clock, 1) if group.count else 0)

    def _blocks_of(self, sequence: Sequence, tokens: int) -> int:
        """Return the blocks that ``tokens`` more tokens of a sequence take."""
        return self.pool.held(sequence.computed + tokens, sequence.computed) - sequence.blocks

    def _stand_by(self) -> int | None:
        """Return the blocks that one token of all who run takes, None if there are not so many."""
        if self.pool.windows and self.partial:
            self.stall()  # what falls behind windows is then counted for each one
        group = self.group
        if group.windows and group.count and not group.steps_that_fit(1):
            return None
        needed = self._blocks_for(self._decoding())
        return needed if needed <= self.pool.free else None

    def _allocate(self, chunks: list[tuple[Sequence, int]]) -> None:
        """Take the blocks of chunks for which there is room."""
        for sequence, tokens in chunks:
            taken = self.pool.extend(sequence, tokens)
            assert taken, f"no blocks for {tokens} tokens of {sequence!r}"

    def _one_token_each(self, decoding: list[Sequence]) -> Batch:
        """Return a batch of one token for each of the group and each ``decoding`` one; there is room for it."""
        batch = self.decode()
        assert batch is not None
        batch.chunks = [(sequence, 1) for sequence in decoding]
        self._allocate(batch.chunks)
        return batch

    def _decode(self) -> Batch:
        """Return a batch that decodes, for as many steps as nothing can change."""
        self._let_go()
        needed = self._stand_by()
        if needed is None:
            return self._retract()
        self.cache.make_room(needed)
        batch = self._one_token_each(self._decoding())
        if not batch.count and not batch.chunks:
            self._full = self._full and bool(self.running)
            return batch
        self.ratio.count(1)
        if (self._full or not self.waiting) and self._chunked is None:
            left = self._poll.steps_left()
            self.leap_on(batch, self.cache.evictable, most=None if left is None else left - 1)
            self.ratio.count(batch.steps - 1)
        self._poll.count(batch.steps)
        return batch

    def _retract(self) -> Batch:
        """Send back those with the shortest outputs, of these the one with the longest prompt, until the rest fits."""
        batch = Batch([])
        self._full = False
        outputs = {one: self._output(one) for one in (*self.group.members, *self._decoding())}
        self.stall()
        left = sorted(self._decoding(), key=lambda one: (outputs[one], -one.request.prompt_tokens), reverse=True)
        while len(left) > 1:
            victim = left.pop()
            self._send_back(victim, batch)
            self.cache.make_room(-(-RETRACT_DECODE_STEPS * len(left) // self.pool.block_size))
            if self._stand_by() is not None:
                break
        if self._stand_by() is None and self._chunked is not None:
            self._send_back(self._chunked, batch)
        self.ratio.estimate((outputs[one], one.target) for one in left)
        needed = self._stand_by()
        if needed is None:
            batch.interrupted = [*batch.interrupted, *left]  # those whose last token is on its way hold the blocks
            return batch
        self.cache.make_room(needed)
        planned = self._one_token_each(self._decoding())
        planned.preempted, planned.interrupted = batch.preempted, batch.interrupted
        return planned

    def _send_back(self, sequence: Sequence, batch: Batch) -> None:
        """Free the blocks of a sequence; only what was in the cache stays there."""
        self.cache.release(sequence, 0)
        self.preempt(sequence, batch)
