"""A small engine of its own, in plain Python: runs to test the results room with, without the simulator.

It batches continuously, one step at a time, with a step time that is linear in batch size, context and prompt
tokens, so that steps of an unchanged batch run linearly and may be logged as one leap.
"""

from dataclasses import dataclass, field

import numpy as np

from llmsim.results.odometer import bill_kinds, bills, lane_total
from llmsim.results.records import Record
from llmsim.results.run import Run
from llmsim.results.setup import Setup
from llmsim.results.steps import COLUMNS, StepLog

KINDS = (
    ("compute", "attention"),
    ("compute", "feed_forward"),
    ("memory", "attention"),
    ("memory", "feed_forward"),
    ("memory", "head"),
    ("communication", "collective"),
    ("launch", "none"),
    ("host", "sampler"),
)
BLOCK_TOKENS = 16


@dataclass(slots=True)
class Job:
    record: Record
    left: int
    last_s: float = 0.0
    context: int = 0
    preempted: bool = False
    row_ranges: list[tuple[int, int]] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Replica:
    """One engine: ``seats`` sequences at most, one prompt per step, preemption every ``preempt_every`` steps."""

    index: int
    seats: int
    leap: bool
    preempt_every: int | None = None
    log: StepLog = field(default_factory=StepLog)
    seconds: list[list[float]] = field(default_factory=list)
    pending: list = field(default_factory=list)  # the step that a leap collects

    def simulate(self, records: list[Record]) -> list[Job]:
        coming = [Job(record, record.output_tokens) for record in records]
        jobs, waiting, running, now, steps, blocked_until = list(coming), [], [], 0.0, 0, 0
        while coming or waiting or running:
            while coming and coming[0].record.arrival_s <= now:
                waiting.append(coming.pop(0))
            if not waiting and not running:
                now = coming[0].record.arrival_s
                continue
            free = len(running) < self.seats and (steps >= blocked_until or not running)
            joins = waiting.pop(0) if waiting and free else None
            now = self.step(now, running, joins, len(waiting))
            steps += 1
            running += [joins] if joins else []
            for job in running:
                if job.left == 0:
                    job.record.finished_s = now
            running = [job for job in running if job.left]
            if self.preempt_every and steps % self.preempt_every == 0 and len(running) > 1:
                victim = running.pop()
                victim.preempted, victim.record.preemptions = True, victim.record.preemptions + 1
                waiting.insert(0, victim)
                blocked_until = steps + 5  # as if its blocks were not free again at once
        self.flush()
        return jobs

    def step(self, now: float, running: list[Job], joins: Job | None, waiting: int) -> float:
        prompt = 0
        if joins:
            prompt = joins.record.prompt_tokens + (joins.record.output_tokens - joins.left)
            joins.context = prompt
            if joins.record.admitted_s is None:
                joins.record.admitted_s, joins.record.replica = now, self.index
        context = sum(job.context for job in running)
        prices = price(len(running), context, prompt)
        duration = sum(prices)
        end = now + duration
        row = [now, end, 1, len(running), context, prompt, int(joins is not None), duration, duration]
        blocks = sum(-(-(job.context + 1) // BLOCK_TOKENS) for job in [*running, *([joins] if joins else [])])
        row += [len(running) + int(joins is not None), waiting, blocks, len(running) + prompt]
        row += [len(running) + int(joins is not None), prices[0] + prices[2], 0.1, 0, len(running)]
        self.write(row, prices)
        rows = len(self.log) + bool(self.pending) - 1
        for job in [*running, *([joins] if joins else [])]:
            job.left -= 1
            job.context += 1
            if job.row_ranges and job.row_ranges[-1][1] >= rows - 1:
                job.row_ranges[-1] = (job.row_ranges[-1][0], rows)
            else:
                job.row_ranges.append((rows, rows))
        if joins and joins.preempted:
            self.log.gap(end - joins.last_s)
            joins.preempted = False
        elif joins:
            self.log.first_tokens()
            joins.record.first_token_s = end
        for job in [*running, *([joins] if joins else [])]:
            job.last_s = end
            job.token_times.append(end)
        return end

    def write(self, row: list[float], prices: list[float]) -> None:
        """Log a row; with ``leap``, join it to the rows before it while the batch stays the same."""
        same = self.pending and row[6] == 0 and row[3] == self.pending[0][3] and row[0] == self.pending[0][1]
        if same and self.pending[0][6] == 0:
            first, sums = self.pending
            first[1], first[2], first[8] = row[1], first[2] + 1, row[8]
            self.pending[1] = [a + b for a, b in zip(sums, prices, strict=True)]
            return
        self.flush()
        self.pending = [row, list(prices)]
        if not self.leap or row[6]:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            assert len(self.pending[0]) == len(COLUMNS)
            self.log.append(tuple(self.pending[0]))
            self.seconds.append(self.pending[1])
            self.pending = []


def price(batch: int, context: int, prompt: int) -> list[float]:
    """Seconds of each of `KINDS` in a step."""
    return [
        1e-9 * prompt * prompt,
        4e-6 * batch + 2.2e-5 * prompt,
        3e-8 * context,
        8e-3,
        4e-4,
        1e-6 * (batch + prompt) + 2e-4,
        3e-4,
        5e-4 + 2e-6 * batch,
    ]


def synthetic_run(
    *,
    requests: int = 400,
    rate: float = 6.0,
    replicas: int = 1,
    seats: int = 48,
    rejected: int = 0,
    preempt_every: int | None = None,
    leap: bool = True,
    output: float = 90.0,
    seed: int = 0,
    **options: object,
) -> Run:
    """Return a run with Poisson arrivals, lognormal prompts and geometric outputs on equal replicas."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, requests + rejected))
    prompts = np.clip(random.lognormal(6.2, 0.8, requests + rejected), 1, 8000).astype(int)
    outputs = random.geometric(1 / output, requests + rejected)
    refused = set(random.choice(requests + rejected, rejected, replace=False).tolist())
    records = [
        Record(f"r{i}", None, "finished", None, 0, float(arrivals[i]), None, None, None, int(prompts[i]),
               int(outputs[i]), 0, 0)
        for i in range(requests + rejected)
    ]  # fmt: skip
    for i in sorted(refused):
        records[i].status, records[i].reason, records[i].output_tokens = "rejected", "prompt, too long", 0
        records[i].finished_s = records[i].arrival_s
    served = [record for record in records if record.status == "finished"]
    engines = [Replica(index, seats, leap, preempt_every) for index in range(replicas)]
    names = bill_kinds(KINDS)
    token_times = {}
    for engine in engines:
        jobs = engine.simulate(served[engine.index :: replicas])
        ranges = [(pair, owner) for owner, job in enumerate(jobs) for pair in job.row_ranges]
        pairs, owners = np.array([pair for pair, _ in ranges]), np.array([owner for _, owner in ranges])
        mine = [job.record for job in jobs]
        charged = bills(mine, pairs, np.array(engine.seconds), kinds=KINDS, owners=owners)
        for record, bill in zip(mine, charged, strict=True):
            record.bill = bill
        token_times |= {job.record.id: job.token_times for job in jobs}
    wall = max(record.finished_s for record in records if record.finished_s is not None)
    lanes = [lane_total(np.array(engine.seconds), kinds=KINDS, wall_s=wall) for engine in engines]
    setup = Setup(
        version="0.1.0", engine="vllm@0.33", model="llama-3.1-8b", devices="1x H100-SXM-80GB", plan="TP1",
        formats="bf16", blocks=4000, block_tokens=BLOCK_TOKENS, blocks_origin="estimated", replicas=replicas,
        performance="formula", expected_error="+-10 %", request_rate=rate, burstiness=1.0,
        workload=f"open loop, Poisson {rate:.2f} req/s, {requests} requests",
    )  # fmt: skip
    known = {"setup": setup, "bill_kinds": names, "lane_totals": np.array(lanes), "clock_hz": 1.83e9}
    known["scenario"] = token_times  # when each request got each of its tokens, to compare with
    return Run(records=records, steps=[engine.log for engine in engines], **{**known, **options})
