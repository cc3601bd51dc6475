"""One replica: it takes requests, forms batches, holds its devices for as long as they run, and settles them.

Batches are formed at the moments at which a real engine would form them, but evaluated late: what
should have been formed before now is formed when somebody next looks (an arrival or the end of a
batch), from the state as it was then.  So a batch costs one event, and a leap of a thousand steps too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpy import Event

from llmsim.engine_options import EngineOptions
from llmsim.errors import StalledError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.log_rows import leap_row, round_row, step_row, verified_row
from llmsim.machine.clock import Alarm, Clock
from llmsim.performance.step_cost import StepCost
from llmsim.results.records import Record, Status
from llmsim.results.speculation import SpeculationLog
from llmsim.results.steps import StepLog
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.client_streams import ClientStreams
from llmsim.schedulers.observed import Observed
from llmsim.schedulers.protocol import Scheduler
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.verify_group import VerifyGroup
from llmsim.timeline import Timeline
from llmsim.workload.request import Request

# This many decisions in a row without a token, and the engine stands still.
MOST_IDLE_DECISIONS = 1000


class Engine:
    """One replica of the model on its devices.

    Args:
        replica: its number.
        clock: the simulated clock.
        scheduler: who decides what a step computes.
        timeline: when batches begin and end.
        pool: the KV-cache blocks.
        options: the engine's options.
        finish: called with the record of every request that ends.
    """

    def __init__(
        self,
        replica: int,
        clock: Clock,
        scheduler: Scheduler,
        timeline: Timeline,
        pool: BlockPool,
        options: EngineOptions,
        finish: Callable[[Record], None],
    ) -> None:
        self.replica = replica
        self.clock = clock
        self.scheduler = scheduler
        self.timeline = timeline
        self.pool = pool
        self.options = options
        self.log = StepLog()
        self.load = 0
        self.steps = 0
        self.preemptions = 0
        self.costs: list[StepCost] = []
        self.ended: list[Record] = []
        self.rows: list[list[tuple[int, int]]] = []
        self._finish = finish
        self._alarm: Alarm | None = None
        self._open = True
        self._held_back = False  # the last attempt to form a batch found nothing to compute
        self._sequences: dict[Sequence, None] = {}
        self._running: Any = getattr(scheduler, "running", ())
        self._waiting: Any = getattr(scheduler, "waiting", ())
        self._idle_decisions = 0
        self._arrivals = 0
        self._queue_has_limits = options.max_num_queued_reqs is not None or options.max_num_queued_tokens is not None
        if options.stream_interval > 1:
            self.log.in_chunks()
            self.scheduler = Observed(scheduler, [ClientStreams(options.stream_interval, self.log)])
        if options.speculation is not None:
            self.log.speculation = SpeculationLog(options.speculation.tokens)
        self._padded = [options.padded(count) for count in range(options.max_num_seqs + 1)]

    # ------------------------------------------------------------------ requests come

    def submit(self, request: Request) -> None:
        """Take in a request now; one that can never fit ends at once as a rejected record."""
        now = self.clock.now
        reason = self.refusal(request) or (self._no_room(now) if self._queue_has_limits else None)
        if reason is not None:
            self.turn_away(request, "rejected", reason)
            return
        self._arrivals += 1
        sequence = Sequence(request, 1 if self.options.prefill_only else request.output_tokens, self._arrivals)
        self._sequences[sequence] = None
        self.load += 1
        timeline = self.timeline
        if timeline.opens_s < now:
            self._catch_up(now)
        matters = self.scheduler.add(sequence)
        if not timeline.in_flight:
            if self._alarm is None and self._open:
                self._alarm = self.clock.alarm(now, self._wake, decides=True)
        elif matters:
            self._cut(now)
            self._set_alarm()

    def close(self) -> None:
        """Take requests in, but compute nothing until `open` is called: the devices are not ready."""
        self._open = False

    def open(self) -> None:
        """Begin to compute."""
        self._open = True
        if self.load and self._alarm is None:
            self._alarm = self.clock.alarm(self.clock.now, self._wake, decides=True)

    def turn_away(self, request: Request, status: Status, reason: str) -> None:
        """End a request that never became a sequence."""
        record = self._record(request, status, reason, None)
        self.ended.append(record)
        self.rows.append([])
        self._finish(record)

    def refusal(self, request: Request) -> str | None:
        """Say why a request can never be served here, None if it can."""
        output = 0 if self.options.prefill_only else request.output_tokens
        if request.prompt_tokens < 1 or (output < 1 and not self.options.prefill_only):
            return f"asks for {request.output_tokens} output tokens on a prompt of {request.prompt_tokens}"
        tokens = request.prompt_tokens + output
        if tokens > self.options.max_model_len:
            return (
                f"prompt of {request.prompt_tokens} and output of {output} tokens are more than "
                f"max_model_len {self.options.max_model_len}"
            )
        most = self.options.max_prompt_tokens
        if most is not None and request.prompt_tokens > most:
            return f"prompt of {request.prompt_tokens} tokens is more than the {most} of a step, and is not cut"
        # The last token is never computed, only sampled; a sequence lives on one rank.
        blocks, held = self.pool.most_held(tokens - 1), self.pool.blocks // self.options.ranks
        if blocks > held:
            return f"needs {blocks} KV-cache blocks, the engine has {held}"
        # A policy that takes blocks in its own way may have `refusal(request)`, with the same meaning.
        refuses = getattr(self.scheduler, "refusal", None)
        return refuses(request) if refuses is not None else None

    def _no_room(self, now: float) -> str | None:
        """Say why the queue takes nobody in now, None if it does.

        Preempted sequences wait too, with their prompts and what they have generated.  vLLM's server answers with
        HTTP 503; whether it counts the newcomer's own tokens was not looked up: here they do not count.
        """
        if self.timeline.opens_s < now:
            self._catch_up(now)
        waiting = [one.total for one in self._sequences if one.first_row < 0 and one.begins is None]
        options = self.options
        most, most_tokens = options.max_num_queued_reqs, options.max_num_queued_tokens
        if most is not None and len(waiting) >= most:
            return f"the queue is full: {len(waiting)} requests wait, max_num_queued_reqs is {most}"
        if most_tokens is not None and sum(waiting) >= most_tokens:
            return f"the queue is full: {sum(waiting)} tokens wait, max_num_queued_tokens is {most_tokens}"
        return None

    def reprice(self, costs: list[StepCost]) -> None:
        """Charge other prices from the next step on: the machine has changed under the engine."""
        now = self.clock.now
        timeline = self.timeline
        if timeline.opens_s < now:
            self._catch_up(now)
        if timeline.in_flight:
            self._cut(now)
            self._set_alarm()
        timeline.reprice(costs)
        self.costs = costs

    def withdraw(self, reason: str) -> None:
        """End all requests that are still here as cancelled records: the run stops."""
        pending = self._pending()
        for sequence in list(self._sequences):
            group = sequence.slot
            if isinstance(group, DecodeGroup):
                sequence.generated += sequence.base + group.clock - sequence.computed
            elif isinstance(group, VerifyGroup):
                group.update(sequence)
            sequence.generated -= pending.get(sequence, 0)
            self._end(sequence, "cancelled", reason, None)

    def _pending(self) -> dict[Sequence, int]:
        """Return how many tokens of each sequence have been scheduled and have not come yet."""
        now = self.clock.now
        timeline = self.timeline
        if timeline.in_flight:
            self._cut(now)
        pending: dict[Sequence, int] = {}
        for batch in timeline.in_flight:
            coming = batch.steps - timeline.ended(batch, now)
            if batch.verified is not None:
                for sequence, given in zip(batch.verified.sequences, batch.verified.each, strict=True):
                    pending[sequence] = pending.get(sequence, 0) + int(given)
                for sequence in batch.sampling:
                    pending[sequence] = pending.get(sequence, 0) + 1
                continue
            for sequence in (*(batch.decodes.members if batch.decodes is not None else ()), *batch.sampling):
                pending[sequence] = pending.get(sequence, 0) + coming
        return pending

    # ------------------------------------------------------------------ batches are formed

    def _catch_up(self, now: float) -> None:
        """Form the batches that a real engine has formed before ``now``."""
        timeline = self.timeline
        while timeline.in_flight and not self._held_back:
            opens = timeline.opens_s
            if opens >= now:
                return
            self._form(opens)

    def _form(self, moment_s: float) -> None:
        """Ask the scheduler for the batch of ``moment_s`` and place it."""
        batch = self.scheduler.next_batch()
        if batch is None:
            self._held_back = True
            return
        if batch.interrupted:
            self._interrupt(batch)
        if not batch.count and not batch.chunks:
            self._held_back = True
            self._stands_still()
            return
        self._idle_decisions = 0
        batch.formed_s = moment_s
        self.timeline.place(batch)
        batch.gauges = self._gauges()
        for sequence, tokens in batch.chunks:
            if sequence.admitted_s is None:
                sequence.admitted_s = moment_s
            if sequence.first_row < 0 and sequence.begins is None:
                sequence.begins = batch
            if not 0 < tokens <= sequence.total - sequence.computed:
                raise StalledError(f"replica {self.replica}: the scheduler gave {tokens} tokens to {sequence!r}")
        batch.count_chunks()

    def _gauges(self) -> tuple[int, int, int]:
        """Return the sequences that run, those that wait, and the blocks that are taken."""
        return len(self._running), len(self._waiting), self.pool.blocks - self.pool.free

    def _interrupt(self, batch: Batch) -> None:
        """Take note of those that get no token now: their next gap is longer than a step."""
        for sequence in batch.interrupted:
            if sequence.last_token_s is None:
                sequence.last_token_s = self.timeline.busy_until_s
        # The batches in flight will be the next rows, one each; those of a pipeline are not known yet.
        coming = [] if self.timeline.rounds else list(self.timeline.in_flight)
        last_row = len(self.log) + len(coming) - 1
        for sequence in batch.preempted:
            first_row = sequence.first_row
            if sequence.begins in coming:
                first_row = len(self.log) + coming.index(sequence.begins)
            if 0 <= first_row <= last_row:
                sequence.ranges.append((first_row, last_row))
            sequence.first_row = -1
            sequence.begins = None
        self.preemptions += len(batch.preempted)

    def _stands_still(self) -> None:
        """Count decisions without a token; too many in a row end the run."""
        self._idle_decisions += 1
        if self._idle_decisions > MOST_IDLE_DECISIONS:
            raise StalledError(
                f"replica {self.replica} at {self.clock.now:.6f} s: {MOST_IDLE_DECISIONS} decisions in a row "
                f"computed nothing while {self.load} requests are there"
            )

    def _run_to(self, now: float) -> None:
        """Bring the leaps of a pipeline up to the present, and log the steps that have come out of it."""
        for batch, step, end in self.timeline.run_to(now):
            self.log.append(round_row(batch, step, end, self._padded))

    def _cut(self, now: float) -> None:
        """Take back all steps of leaps in flight that have not been formed yet."""
        if self.timeline.rounds:
            self._run_to(now)
        for batch, steps in self.timeline.cut(now):
            if steps < batch.steps:
                # Whoever answers steps > 1 has `trim` (`LeapingScheduler`).
                self.scheduler.trim(batch, steps)  # type: ignore[attr-defined]
                self.timeline.shorten(batch)

    def _set_alarm(self) -> None:
        """Wake up at the end of the batch that runs."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.timeline.in_flight:
            self._alarm = self.clock.alarm(self.timeline.ends_s(), self._wake, decides=True)

    # ------------------------------------------------------------------ batches end

    def _wake(self, _: Event) -> None:
        """Settle what has ended, form what can be formed, and sleep until the next end."""
        now = self.clock.now
        self._alarm = None
        timeline = self.timeline
        if timeline.opens_s < now:
            self._catch_up(now)
        in_flight = timeline.in_flight
        if timeline.rounds:
            self._run_to(now)
        while in_flight and in_flight[0].end_s <= now:
            batch = timeline.pop()
            self._held_back = False
            if self._settle(batch) and in_flight and in_flight[-1].steps > 1 and self._waiting:
                # Seats and blocks fall free: the step formed ahead stands, those after it do not.
                self._cut(now)
            if in_flight and not timeline.rounds:
                in_flight[0].gauges = self._gauges()  # it begins now, without those who have just ended
        while not self._held_back and timeline.opens_s <= now:
            self._form(now)
        if not in_flight:
            self._held_back = False
        self._set_alarm()

    def _settle(self, batch: Batch) -> list[Sequence]:
        """Log a batch that has ended, hand out its tokens, and end who is done."""
        end = batch.end_s
        steps = batch.steps
        self.steps += steps
        if batch.rounds is not None:
            self.log.append(round_row(batch, len(batch.rounds) - 1, end, self._padded))
        elif batch.verified is not None:
            self._log_verified(batch)
        elif batch.epoch is not None:
            self.log.append(leap_row(batch, self._padded))
        else:
            self.log.append(step_row(batch))
        row = len(self.log) - 1
        for sequence, _ in batch.chunks:
            if sequence.begins is batch:
                sequence.first_row = row
                sequence.begins = None
        for sequence in batch.sampling:
            if sequence.first_token_s is None:
                sequence.first_token_s = end
                if not self.options.prefill_only:
                    self.log.first_tokens()
            else:
                last = sequence.last_token_s
                # Who was preempted with this step in flight has had its end for a last token already.
                self.log.gap(end - (batch.start_s if last is None or last >= end else last))
            sequence.last_token_s = end
        finished = self.scheduler.settle(batch, steps)
        for sequence in finished:
            if sequence.first_row >= 0:  # else it was preempted with this last token in flight, and is billed already
                sequence.ranges.append((sequence.first_row, row))
            self._end(sequence, "finished", "length", end)
        return finished

    def _log_verified(self, batch: Batch) -> None:
        """Log a step that verifies drafts: its tokens come together, so each sequence has one gap."""
        done, drafted = batch.verified, self.log.speculation
        assert done is not None
        assert drafted is not None
        self.log.append(verified_row(batch))
        drafted.append(batch.draft_s, done.accepted, done.tokens - done.rows, done.given - done.rows, done.wasted[0])
        for last_s in done.late:
            self.log.gap(batch.end_s - last_s)

    # ------------------------------------------------------------------ requests end

    def _end(self, sequence: Sequence, status: Status, reason: str, finished_s: float | None) -> None:
        """Make the record of a sequence and let it go."""
        del self._sequences[sequence]
        self.load -= 1
        record = self._record(sequence.request, status, reason, sequence)
        record.finished_s = finished_s
        self.ended.append(record)
        # Who did not finish has no bill; its last rows may never have been logged.
        self.rows.append(sequence.ranges if status == "finished" else [])
        self._finish(record)

    def _record(self, request: Request, status: Status, reason: str, sequence: Sequence | None) -> Record:
        """Return the record of a request; one that never became a sequence has no moments."""
        if sequence is None:
            moments: tuple[float | None, float | None] = (None, None)
            tokens = cached = preemptions = 0
        else:
            moments = sequence.admitted_s, sequence.first_token_s
            tokens = 0 if self.options.prefill_only else sequence.generated  # a forward pass yields no token
            cached, preemptions = sequence.cached_tokens, sequence.preemptions
        return Record(
            request.id, self.replica, status, reason, 1, request.arrival_s, *moments, None, request.prompt_tokens,
            tokens, cached, preemptions, request.priority, request.session_id, request.tenant, None, request.turn,
        )  # fmt: skip
