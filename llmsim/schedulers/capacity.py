"""TensorRT-LLM's capacity scheduler: which requests may be active, by seats and blocks.

`Capacity` keeps who runs, who waits, and how many blocks the running ones have been promised and do not hold
yet.  `Question` asks for newcomers one after the other, in line.  (Sources: see `tensorrt_llm`.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import merge
from operator import attrgetter

from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.sequence import Sequence

_IN_LINE = attrgetter("arrival")


class Capacity:
    """Who runs, who waits, and the blocks that the running ones will still need.

    Args:
        pool: the blocks of the engine.
        seats: how many may run.
        evicts: whether the blocks of the next step are enough to start (``MAX_UTILIZATION``).
        steps_ahead: for how many tokens a running one must find blocks; two in a pipeline
            (``two_step_lookahead``).
        overlapped: whether a step is in flight whenever one is decided.

    Attributes:
        running: those that have started, and the blocks that each is promised.
        waiting: those that have not, in line: by arrival, the paused among them.
        owed: blocks that the running ones are promised and do not hold.
        computing: prompts that are being computed, and the first block that is new in each, None for none.
    """

    def __init__(self, pool: BlockPool, seats: int, *, evicts: bool, steps_ahead: int, overlapped: bool) -> None:
        self.pool = pool
        self.running: dict[Sequence, int] = {}
        self.waiting: deque[Sequence] = deque()
        self.owed = 0
        self.computing: dict[Sequence, int | None] = {}
        self.evicts = evicts
        self._seats = seats
        self._steps_ahead = steps_ahead
        self._overlapped = overlapped
        self._reuses = isinstance(pool, PrefixCache)
        self._admissions = 0

    def seats_left(self) -> int:
        """Return how many more may run."""
        return self._seats - len(self.running)

    def ask(self, *, checked: bool = False) -> Question:
        """Begin to ask for newcomers; ``checked``: seats and blocks have been looked at by `survivors`."""
        return Question(self, checked=checked)

    def lifetime(self, sequence: Sequence) -> int:
        """Return the blocks in which a sequence can be completed.

        TensorRT-LLM counts the last token too, which is never computed; where a request fits the cache only
        without it, it may have the whole cache.
        """
        return min(self.pool.most_held(sequence.request.prompt_tokens + sequence.target), self.pool.blocks)

    def context(self, sequence: Sequence) -> int:
        """Return the blocks of all tokens that a sequence has now: those of its first step."""
        return self.pool.needed(sequence.total)

    # ------------------------------------------------------------------ come and go

    def admit(self, sequence: Sequence, asked: Question) -> None:
        """Seat a newcomer that fits, with what the cache holds of it and all blocks of its prompt."""
        pool = self.pool
        hits, _ = pool.match(sequence)
        self._admissions += 1
        sequence.order = self._admissions
        sequence.given = sequence.total
        found = hits * pool.block_size
        if hits:
            pool.take(sequence, hits)
            sequence.computed = found
        sequence.found = found
        if not sequence.preemptions:
            sequence.cached_tokens = found
        sequence.blocks = hits
        promised = self.running[sequence] = self.lifetime(sequence)
        self.owed += promised - hits
        if self._reuses:
            self.computing[sequence] = asked.new_block
        if pool.windows:
            asked.reserve()  # its blocks are taken chunk by chunk
        else:
            asked.seats -= 1
            self._hold(sequence, pool.held(sequence.total, found))

    def leave_line(self, admitted: list[Sequence]) -> None:
        """Let those who have been admitted leave the line."""
        for sequence in admitted:
            if self.waiting[0] is sequence:
                self.waiting.popleft()
            else:
                self.waiting.remove(sequence)

    def grow(self, sequence: Sequence, tokens: int) -> None:
        """Take the blocks for ``tokens`` more tokens of a running sequence; those of its prompt are there already."""
        computed = sequence.computed
        if computed >= sequence.given or self.pool.windows:
            self._hold(sequence, self.pool.held(computed + tokens, computed))

    def _hold(self, sequence: Sequence, blocks: int) -> None:
        taken = blocks - sequence.blocks
        self.pool.free -= taken
        self.owed -= taken
        sequence.blocks = blocks

    def context_computed(self, sequences: Iterable[Sequence]) -> None:
        """Let the prompts among ``sequences`` be found: they have been computed as a whole."""
        if self.computing:
            for sequence in sequences:
                if sequence in self.computing:
                    del self.computing[sequence]
                    self.pool.name(sequence, sequence.given)

    def release(self, sequence: Sequence, known: int) -> None:
        """Free the blocks of a running sequence, of which ``known`` tokens have been computed for good."""
        self.owed -= self.running.pop(sequence) - sequence.blocks
        self.computing.pop(sequence, None)
        self.pool.release(sequence, known)

    def _pause(self, sequence: Sequence) -> None:
        """Free all blocks of a sequence; it will be computed anew, prompt and output."""
        # With a step in flight the last scheduled token is on its way, unless it was known at admission.
        known = max(sequence.computed - 1, sequence.given) if self._overlapped else sequence.computed
        known = min(known, sequence.computed)
        if known < sequence.given:
            # A prompt can be found when it has been computed as a whole, so nothing of this one can.
            known = sequence.found
        self.release(sequence, known)
        sequence.slot = None
        sequence.computed = 0
        sequence.preemptions += 1

    # ------------------------------------------------------------------ MAX_UTILIZATION

    def survivors(self) -> tuple[list[Sequence], list[Sequence] | None, list[Sequence]]:
        """Walk down the line, running and waiting by arrival, and pause from its end whoever lacks blocks.

        A request that does not fit pauses the last one that has started, as long as that is not before it
        in line, and is tried again; whoever stands behind a paused one gets nothing in this step.

        Returns:
            running ones that go on, newcomers that fit, and those that were paused, the last one first.  None for
            the newcomers: they all stand behind those who run, and none of these was paused.
        """
        started = sorted((sequence for sequence in self.running if not sequence.done), key=_IN_LINE)
        seats = self._seats - len(self.running) + len(started)
        asked = Question(self, seats=seats)
        go_on: list[Sequence] = []
        newcomers: list[Sequence] = []
        paused: list[Sequence] = []
        for sequence in merge(list(started), self.waiting, key=_IN_LINE):
            if paused and sequence.arrival >= paused[-1].arrival:
                break
            runs = sequence in self.running
            if not (runs or paused or newcomers or self._steps_ahead > 1) and len(go_on) == len(started):
                return go_on, None, paused
            if not runs and asked.better_later(sequence):
                continue
            while not (asked.goes_on(sequence, self._next_blocks(sequence)) if runs else asked.fits(sequence)):
                victim = self._last_started(started, sequence)
                if victim is None:
                    break
                self._pause(victim)
                paused.append(victim)
                if victim is sequence:
                    break
            else:
                asked.reserve()
                (go_on if runs else newcomers).append(sequence)
                continue
            break
        for sequence in paused:
            self._put_back(sequence)
        return go_on, newcomers, paused

    def _last_started(self, started: list[Sequence], first: Sequence) -> Sequence | None:
        """Take the last one of ``started`` that is not before ``first`` in line; who is in a pipeline stays."""
        for place in range(len(started) - 1, -1, -1):
            sequence = started[place]
            if sequence.arrival < first.arrival:
                return None
            if self._steps_ahead == 1 or sequence.slot is None:
                return started.pop(place)
        return None

    def _next_blocks(self, sequence: Sequence) -> int:
        """Return the blocks that a running sequence lacks for what it computes next, less what it gives back."""
        pool = self.pool
        if sequence.computed < sequence.given:
            return max(0, self.context(sequence) - sequence.blocks) if pool.windows else 0
        ahead = min(self._steps_ahead, sequence.target - sequence.generated)
        return pool.held(sequence.computed + ahead, sequence.computed) - sequence.blocks

    def _put_back(self, sequence: Sequence) -> None:
        """Let a paused sequence stand where it stood in line."""
        place = 0
        for other in self.waiting:
            if other.arrival > sequence.arrival:
                break
            place += 1
        self.waiting.insert(place, sequence)


class Question:
    """Asks for one newcomer after the other whether it may start, with what those before it have reserved.

    Attributes:
        seats: seats that are left.
        uncached: tokens to compute of the one asked about last.
        new_block: the first block of it that is not in the cache, None for none.
    """

    def __init__(self, capacity: Capacity, *, seats: int | None = None, checked: bool = False) -> None:
        self.seats = capacity.seats_left() if seats is None else seats
        self.uncached = 0
        self.new_block: int | None = None
        self._capacity = capacity
        self._checked = checked
        self._reserved = 0
        self._wanted = 0
        self._coming = dict.fromkeys(block for block in capacity.computing.values() if block is not None)

    def better_later(self, sequence: Sequence) -> bool:
        """Say whether the next block of a newcomer is just being computed by another one (``beneficialToSkip``)."""
        pool = self._capacity.pool
        hits, _ = pool.match(sequence)
        self.new_block = None
        self.uncached = sequence.total - hits * pool.block_size
        if isinstance(pool, PrefixCache):
            # The last token is always computed, so the block that it lies in is of no use to others' prompts.
            names = pool.names(sequence)[: (sequence.total - 1) // pool.block_size]
            if hits < len(names):
                self.new_block = names[hits]
        if self.new_block in self._coming:
            return True
        if self.new_block is not None and not self._checked:
            self._coming[self.new_block] = None
        return False

    def fits(self, sequence: Sequence) -> bool:
        """Say whether a newcomer's blocks are free; what others hold of it need not be."""
        if self._checked:
            return True
        capacity = self._capacity
        hits, lying_free = capacity.pool.match(sequence)
        blocks = capacity.context(sequence) if capacity.evicts else capacity.lifetime(sequence)
        self._wanted = blocks - hits + lying_free
        return self._room(self._wanted)

    def goes_on(self, sequence: Sequence, blocks: int) -> bool:
        """Say whether a running one finds a seat and its next ``blocks``."""
        self._wanted = blocks
        return self._room(blocks)

    def _room(self, blocks: int) -> bool:
        capacity = self._capacity
        available = capacity.pool.free - (0 if capacity.evicts else capacity.owed)
        return self.seats > 0 and self._reserved + blocks <= available

    def reserve(self) -> None:
        """Keep a seat and the blocks for the one asked about last, whether or not it starts in this step."""
        self.seats -= 1
        self._reserved += self._wanted
