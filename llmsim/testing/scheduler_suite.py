"""What every scheduler must keep, played on random workloads: for a scheduler of one's own, in one line of a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from llmsim.engine_options import EngineOptions
from llmsim.errors import LlmsimError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.results.records import Record
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.observed import Observed
from llmsim.schedulers.protocol import Scheduler
from llmsim.schedulers.sequence import Sequence
from llmsim.testing.plain import plain_options, run_plain
from llmsim.workload.request import Request

# A workload of the suite needs a few thousand decisions; a scheduler that makes this many goes round in circles.
MOST_DECISIONS = 100_000

# The stream in which nobody may starve: this many competitors, arriving faster than they can be served.
COMPETITORS = 400


@dataclass(frozen=True, slots=True)
class Case:
    """One workload for one engine."""

    name: str
    requests: tuple[Request, ...]
    options: EngineOptions
    blocks: int


def check_scheduler(
    scheduler: Callable[..., Scheduler],
    *,
    seeds: Iterable[int] = range(25),
    keeps_budget: bool = True,
    may_starve: bool = False,
    asynchronous: bool = True,
    **settings: Any,
) -> None:
    """Assert that a scheduler does what the engine relies on.

    - Every request ends, with all its tokens, and the engine never stands still, not even when two requests do not
      fit the cache together, or when one needs all of it.
    - A batch gives a sequence between one token and what remains of it, and no sequence twice.
    - No batch has more tokens than ``max_num_scheduled_tokens`` or more sequences than ``max_num_seqs``.
    - Nothing is computed for which no blocks are held, no more blocks are held than there are, and in the end all
      blocks are free.
    - In a stream of requests that come faster than they can be served, one that is unlike the others (longer, less
      important, of another tenant, without a deadline) is served before the stream ends.
    - The same workload gives the same records, and a scheduler that takes ``leap`` gives the same records, bit for
      bit, whether it leaps or not.

    Args:
        scheduler: the class, built as ``scheduler(options, pool, **settings)``.
        seeds: of the random workloads.
        keeps_budget: False for a policy that has no token budget, such as static batching.
        may_starve: True for a policy that lets some requests wait for ever, and says so.
        asynchronous: False for a policy that must not be asked for a batch while one runs.
        settings: keyword arguments of the class.

    Raises:
        AssertionError: with the workload and the rule that was broken.
    """
    __tracebackhide__ = True
    cases = [_random_case(seed, asynchronous) for seed in seeds] + _corner_cases(asynchronous)
    leaps = "leap" in inspect.signature(scheduler).parameters
    for case in cases:
        records = _play(scheduler, settings | ({"leap": False} if leaps else {}), case, keeps_budget)
        again = _play(scheduler, settings | ({"leap": True} if leaps else {}), case, keeps_budget)
        if records != again:
            what = "leaping and stepping differ" if leaps else "the same workload gave other records"
            raise AssertionError(f"{case.name}: {what}: {_first_difference(records, again)}")
    if not may_starve:
        for case in _streams():
            _check_starvation(_play(scheduler, settings, case, keeps_budget), case)


class _Watch:
    """Looks at every decision of one run."""

    def __init__(self, case: Case, pool: BlockPool, *, keeps_budget: bool) -> None:
        self.case = case
        self.pool = pool
        self.keeps_budget = keeps_budget
        self.decisions = 0
        self.alive: dict[Sequence, int] = {}

    def formed(self, batch: Batch) -> None:
        """Look at a decision."""
        self.decisions += 1
        self.require(self.decisions <= MOST_DECISIONS, f"{MOST_DECISIONS} decisions, and requests are left")
        members = list(batch.decodes.members) if batch.decodes is not None else []
        chunked = [sequence for sequence, _ in batch.chunks]
        self.require(batch.steps >= 1, f"a batch for {batch.steps} steps")
        self.require(not (batch.chunks and batch.steps > 1), "a batch with chunks stands for one step")
        self.require(len({*members, *chunked}) == batch.count + len(chunked) or not members,
                     "a sequence is in a batch twice")  # fmt: skip
        self.require(len(set(chunked)) == len(chunked), "a sequence is in a batch twice")
        for sequence, tokens in batch.chunks:
            self.require(1 <= tokens <= sequence.remaining, f"{tokens} tokens for {sequence!r}")
        options = self.case.options
        if self.keeps_budget:
            most = options.max_num_scheduled_tokens
            self.require(batch.tokens <= most, f"{batch.tokens} tokens in a step, the budget is {most}")
        sequences = batch.count + len(chunked)
        self.require(sequences <= options.max_num_seqs, f"{sequences} sequences in a step of {options.max_num_seqs}")
        self._look_at_blocks(batch, members)

    def _look_at_blocks(self, batch: Batch, members: Many[Sequence]) -> None:
        """Find tokens that are computed without memory to keep them in."""
        pool = self.pool
        for sequence in members:
            self.alive[sequence] = 0
        for sequence, tokens in batch.chunks:
            self.alive[sequence] = tokens
        needed = 0
        for sequence in self.alive:
            group = sequence.slot
            coming = self.alive[sequence] if batch.chunks else 0
            computed = sequence.base + group.clock if isinstance(group, DecodeGroup) else sequence.computed + coming
            needed += computed
        for sequence, _ in batch.chunks:
            self.alive[sequence] = 0
        held = pool.blocks - pool.free
        self.require(0 <= held <= pool.blocks, f"{held} of {pool.blocks} blocks are taken")
        room = held * pool.block_size
        self.require(needed <= room, f"{needed} tokens are computed, the blocks taken hold {room}")

    def settled(self, batch: Batch, steps: int, finished: Many[Sequence]) -> None:
        """Forget who has ended."""
        for sequence in finished:
            self.alive.pop(sequence, None)

    def require(self, holds: bool, what: str) -> None:
        """Raise unless a rule holds."""
        if not holds:
            raise AssertionError(f"{self.case.name}: {what}")


def _play(scheduler: Callable[..., Scheduler], settings: dict[str, Any], case: Case, budget: bool) -> list[Record]:
    """Play one case and look at what came of it."""
    made: list[BlockPool] = []

    def make(options: EngineOptions, pool: BlockPool) -> Scheduler:
        made.append(pool)
        watch = _Watch(case, pool, keeps_budget=budget)
        return Observed(scheduler(options, pool, **settings), [watch])

    try:
        records, _ = run_plain(case.requests, engine=case.options, blocks=case.blocks, scheduler=make)
    except LlmsimError as error:
        raise AssertionError(f"{case.name}: {error}") from error
    ended = {record.id: record for record in records}
    for request in case.requests:
        record = ended.get(request.id)
        if record is None:
            raise AssertionError(f"{case.name}: request {request.id} never ends, and nothing goes on")
        if record.status != "finished" or record.output_tokens != request.output_tokens:
            told = f"{record.status} with {record.output_tokens} of {request.output_tokens} tokens"
            raise AssertionError(f"{case.name}: request {request.id} is {told}")
    if len(records) != len(case.requests):
        raise AssertionError(f"{case.name}: {len(records)} records of {len(case.requests)} requests")
    if made[0].free != made[0].blocks:
        raise AssertionError(f"{case.name}: {made[0].blocks - made[0].free} blocks are never given back")
    return records


def _first_difference(one: Many[Record], other: Many[Record]) -> str:
    for first, second in zip(one, other, strict=True):
        if first != second:
            return f"{first} and {second}"
    return "their order"


def _random_case(seed: int, asynchronous: bool) -> Case:
    """Draw a workload, between an idle engine and a preemption storm."""
    draw = Random(seed)
    longest = draw.choice([30, 200, 600])
    clock, requests = draw.choice([0.0, 1e5]), []
    for number in range(draw.randint(2, 50)):
        clock += draw.choice([0.0, draw.expovariate(200.0), draw.expovariate(10.0)])
        deadline_s = clock + draw.expovariate(1.0) if draw.random() < 0.5 else None
        requests.append(
            Request(
                str(number), clock, draw.randint(1, longest), draw.randint(1, draw.choice([1, 9, 120])),
                tenant=draw.choice(["a", "b", None]), priority=draw.randint(0, 2), deadline_s=deadline_s,
            )
        )  # fmt: skip
    options = plain_options(
        max_num_seqs=draw.choice([1, 4, 32]),
        max_num_batched_tokens=draw.choice([64, 256]) if asynchronous else 1024,
        async_scheduling=asynchronous and draw.random() < 0.5,
    )
    most = max(-(-(request.prompt_tokens + request.output_tokens) // 16) for request in requests)
    return Case(f"random workload {seed}", tuple(requests), options, most + draw.choice([0, 3, 40, 1000]))


def _corner_cases(asynchronous: bool) -> list[Case]:
    """Return workloads at the edges of what an engine can serve."""
    wide = partial(plain_options, async_scheduling=asynchronous, max_num_batched_tokens=1024)
    pair = (Request("a", 0.0, 90, 60), Request("b", 0.0, 90, 60))
    return [
        Case("two requests that do not fit together", pair, wide(), 11),
        Case("a request that needs every block", (Request("a", 0.0, 100, 60),), wide(), 10),
        Case("one token in, one token out", (Request("a", 0.0, 1, 1),), wide(), 1),
        Case("prompts as long as the budget", tuple(Request(str(n), 0.0, 1024, 2) for n in range(3)), wide(), 130),
        Case(
            "a storm: all at once, and room for few",
            tuple(Request(str(number), 0.0, 16, 100) for number in range(40)),
            wide(),
            12,
        ),
    ]


def _streams() -> list[Case]:
    """Return overloaded streams with one request that is unlike the others."""
    options = plain_options(max_num_seqs=4, max_num_batched_tokens=256)
    plain: dict[str, Any] = {"tenant": "many", "priority": 0}
    # Four at a time take about ten steps of 10 ms each, so 40 come and 40 go in a second; 60 arrive.
    stream = [
        Request(f"c{number}", number / 60, 20, 10, deadline_s=number / 60 + 1.0, **plain)
        for number in range(COMPETITORS)
    ]
    start = stream[5].arrival_s
    odd = {
        "a long prompt": Request("odd", start, 1500, 10, deadline_s=start + 1.0, **plain),
        "a long answer": Request("odd", start, 20, 400, deadline_s=start + 1.0, **plain),
        "another tenant": Request("odd", start, 20, 10, deadline_s=start + 1.0, tenant="one", priority=0),
        "no deadline": Request("odd", start, 20, 10, **plain),
    }
    return [
        Case(f"a stream in which one has {what}", (*stream[:6], request, *stream[6:]), options, 200)
        for what, request in odd.items()
    ]


def _check_starvation(records: Iterable[Record], case: Case) -> None:
    """Assert that the odd one was admitted before the last of the others came."""
    last_s = max(request.arrival_s for request in case.requests)
    for record in records:
        if record.id == "odd" and record.admitted_s is not None and record.admitted_s >= last_s:
            raise AssertionError(
                f"{case.name}: it waits until the stream ends, {record.admitted_s - record.arrival_s:.1f} s\n"
                "hint: let those who wait gain rank, or say may_starve=True and tell users"
            )
