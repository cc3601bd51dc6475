"""Plays a scripted workload against the scheduler alone, step by step, and logs every decision.

The workload and the log have the format of the decisions recorded from vLLM's own scheduler class: arrivals
by step, no clock and no prices.  An engine's loop is: arrivals, aborts, schedule, and then the output of this
step, or, with asynchronous scheduling, of the step before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from llmsim.engine_options import EngineOptions
from llmsim.errors import InputError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.decision_log import decision, scheduled
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request

_SETTINGS = (
    "block_size", "max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens",
    "max_model_len", "enable_chunked_prefill", "enable_prefix_caching", "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive", "watermark", "scheduler_reserve_full_isl", "prefill_schedule_interval",
    "async_scheduling",
)  # fmt: skip

# A loop of this many steps in which nothing happens, with requests left, will never end.
_MOST_IDLE_STEPS = 10_000


def decisions(workload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one line for each step until every request has ended.

    Raises:
        InputError: the workload lacks a key, or its requests can never end.
    """
    try:
        replay = _Replay(workload)
    except KeyError as error:
        raise InputError(f"workload: key {error.args[0]!r} is missing") from None
    idle = 0
    while replay.left:
        line = replay.step()
        idle = 0 if line["scheduled"] or line["finished"] else idle + 1
        if idle > _MOST_IDLE_STEPS:
            raise InputError(f"workload: {replay.left} requests are left that nothing can serve any more")
        yield line


def engine_options(settings: Mapping[str, Any]) -> EngineOptions:
    """Return the engine options of a workload, with the recordings' defaults."""
    given = {key: settings[key] for key in _SETTINGS if settings.get(key) is not None}
    given = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "block_size": 16, "async_scheduling": False} | given
    given.setdefault("max_model_len", (settings["num_blocks"] - 1) * given["block_size"])
    given.setdefault("max_num_scheduled_tokens", given["max_num_batched_tokens"])
    given.setdefault("max_num_active_seqs", given["max_num_seqs"])
    return EngineOptions(**given, scheduling_policy=settings.get("policy", "fcfs"))


class _Replay:
    """The engine loop around one scheduler."""

    def __init__(self, workload: Mapping[str, Any]) -> None:
        settings = workload["engine"]
        self.options = engine_options(settings)
        self.pool = self._make_pool(settings["num_blocks"] - 1)
        self.scheduler = ContinuousBatching(self.options, self.pool, leap=False)
        self.scheduler.name_outputs = True
        self.arrivals: dict[int, list[Sequence]] = {}
        self.aborts: dict[int, list[Sequence]] = {}
        self.stops: dict[Sequence, int] = {}
        self.contents: dict[str, list[tuple[str, int]]] = {}
        self.delivered: dict[Sequence, int] = {}
        self.in_flight: deque[tuple[int, Batch, list[Sequence]] | None] = deque()
        self.left = 0
        self.steps = 0
        for index, request in enumerate(workload["requests"]):
            self._script(index, request)

    def _make_pool(self, blocks: int) -> BlockPool:
        size, chunk = self.options.block_size, self.options.max_num_batched_tokens
        if not self.options.enable_prefix_caching:
            return BlockPool(blocks, size, max_chunk=chunk)
        return PrefixCache(blocks, size, max_chunk=chunk, contents=self._block_contents)

    def _script(self, index: int, request: Mapping[str, Any]) -> None:
        """Put one request into the script."""
        step, name, output = request["arrival_step"], request["id"], request["output_tokens"]
        asked = Request(
            name,
            request.get("arrival_time", step + 1e-6 * index),
            request["prompt_tokens"],
            output,
            priority=request.get("priority", 0),
        )
        most = request.get("max_tokens", output)
        sequence = Sequence(asked, min(most, self.options.max_model_len - asked.prompt_tokens))
        if output < sequence.target:
            self.stops[sequence] = output
        prompt = request.get("prompt") or [[f"in:{name}", asked.prompt_tokens]]
        tokens = [(stream, place) for stream, count, *start in prompt for place in _places(count, start)]
        self.contents[name] = tokens + [(f"out:{name}", place) for place in range(output)]
        self.arrivals.setdefault(step, []).append(sequence)
        if "abort_step" in request:
            self.aborts.setdefault(request["abort_step"], []).append(sequence)
        self.delivered[sequence] = 0
        self.left += 1

    def _block_contents(self, request: Request, size: int) -> list[Hashable]:
        tokens = self.contents[request.id]
        return [tuple(tokens[start : start + size]) for start in range(0, len(tokens) - size + 1, size)]

    def step(self) -> dict[str, Any]:
        """Run one iteration of the engine's loop and return what it decided."""
        scheduler, pool = self.scheduler, self.pool
        for sequence in self.arrivals.pop(self.steps, ()):
            scheduler.add(sequence)
        aborted = self._abort()
        batch = scheduler.next_batch()
        line: dict[str, Any] = {"step": self.steps}
        line |= decision(batch, batch.admitted if batch is not None else (), scheduler, pool)
        computes = scheduled(batch)
        if batch is not None:
            batch.count_chunks()
        if self.steps in self.aborts:
            line["aborted"] = aborted
        line.update(self._update(batch, computes))
        line["free_blocks_end"] = pool.free
        self.steps += 1
        return line

    def _abort(self) -> list[str]:
        """Let go the requests whose clients give up in this step."""
        aborted = []
        for sequence in self.aborts.get(self.steps, ()):
            if sequence in self.delivered:
                self._end(sequence)
                self.scheduler.remove(sequence)
                aborted.append(sequence.request.id)
        return aborted

    def _name_outputs(self, sequences: Iterable[Sequence]) -> None:
        """Make blocks that output has filled findable, but for the token that the step ahead computes."""
        for sequence in sequences:
            if sequence in self.delivered and sequence in self.scheduler.running:
                group = sequence.slot
                computed = sequence.base + group.clock if isinstance(group, DecodeGroup) else sequence.computed
                self.pool.name(sequence, computed - 1)

    def _update(self, batch: Batch | None, computes: list[tuple[Sequence, int]]) -> dict[str, Any]:
        """Process the output of this step, or of the one before, and return what ended."""
        ahead = self.options.async_scheduling
        if batch is not None and computes:
            unfinished = {sequence for sequence, _ in batch.chunks} - set(batch.sampling)
            sampling = [sequence for sequence, _ in computes if sequence not in unfinished]
            self.in_flight.append((self.steps, batch, sampling))
        elif ahead and self.in_flight:
            self.in_flight.append(None)
        line: dict[str, Any] = {"finished": []}
        if ahead:
            line["updated"] = None
        if not self.in_flight or (ahead and len(self.in_flight) < 2 and computes):
            return line
        entry = self.in_flight.popleft()
        if entry is None:
            return line
        step, settled, sampling = entry
        if ahead:
            line["updated"] = step
        stopped = self._deliver(sampling)
        ended = [sequence for sequence in self.scheduler.settle(settled, 1) if sequence in self.delivered]
        finished = sorted({*ended, *stopped}, key=lambda sequence: sampling.index(sequence))
        for sequence in finished:
            self._end(sequence)
            if sequence in stopped:
                self.scheduler.remove(sequence)
        if ahead:
            self._name_outputs(sampling)
        line["finished"] = [sequence.request.id for sequence in finished]
        if stopped:
            line["finish_reason"] = {sequence.request.id: "stop" for sequence in stopped}
        return line

    def _deliver(self, sampling: list[Sequence]) -> list[Sequence]:
        """Hand out one token each; return those whose token is an end that nobody could foresee."""
        stopped = []
        for sequence in sampling:
            if sequence in self.delivered:
                self.delivered[sequence] += 1
                if self.delivered[sequence] == self.stops.get(sequence):
                    stopped.append(sequence)
        return stopped

    def _end(self, sequence: Sequence) -> None:
        del self.delivered[sequence]
        self.left -= 1


def _places(count: int, start: list[int]) -> range:
    first = start[0] if start else 0
    return range(first, first + count)
