"""The continuous scheduler decides what vLLM 0.33's own scheduler class decided, step by step.

The recordings cover prefix caching, aborts and unforeseen stops too; those are not modelled yet, and their
workloads are left out here by name of the feature.
"""

import gzip
import json
from collections import deque
from pathlib import Path

import pytest
from simulations import options

from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "vllm_decisions"
SETTINGS = (
    "block_size", "max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens",
    "max_model_len", "enable_chunked_prefill", "long_prefill_token_threshold", "long_prefill_token_threshold_adaptive",
    "watermark", "scheduler_reserve_full_isl", "async_scheduling",
)  # fmt: skip
COMPARED = ("scheduled", "new", "resumed", "preempted", "num_running", "num_waiting", "free_blocks", "finished",
            "free_blocks_end")  # fmt: skip


def modelled(path: Path) -> bool:
    """Say whether a workload keeps to what is modelled so far."""
    workload = json.loads(path.read_text())
    plain = all(
        "abort_step" not in request and request.get("max_tokens", request["output_tokens"]) == request["output_tokens"]
        for request in workload["requests"]
    )
    engine = workload["engine"]
    return plain and not engine.get("enable_prefix_caching", True) and engine.get("prefill_schedule_interval", 1) == 1


WORKLOADS = sorted(path.name.split(".")[0] for path in FOLDER.glob("*.workload.json") if modelled(path))


def recorded(name: str) -> list[dict]:
    """Read a log of decisions."""
    path = FOLDER / f"{name}.log.jsonl"
    text = path.read_text() if path.is_file() else gzip.decompress(path.with_suffix(".jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def simulated(workload: dict, steps: int) -> list[dict]:
    """Run the engine loop of the recordings: arrivals, schedule, and the output of this or the last step."""
    engine = workload["engine"]
    settings = {key: engine[key] for key in SETTINGS if engine.get(key) is not None}
    settings.setdefault("max_num_seqs", 128)
    settings.setdefault("max_num_batched_tokens", 2048)
    settings.setdefault("block_size", 16)
    settings.setdefault("max_model_len", (engine["num_blocks"] - 1) * settings["block_size"])
    chosen = options(**settings, scheduling_policy=engine.get("policy", "fcfs"))
    pool = BlockPool(engine["num_blocks"] - 1, chosen.block_size, max_chunk=chosen.max_num_batched_tokens)
    scheduler = ContinuousBatching(chosen, pool, leap=False)
    arrivals: dict[int, list[Sequence]] = {}
    for index, request in enumerate(workload["requests"]):
        step = request["arrival_step"]
        arrival = request.get("arrival_time", step + 1e-6 * index)
        asked = Request(request["id"], arrival, request["prompt_tokens"], request["output_tokens"],
                        priority=request.get("priority", 0))  # fmt: skip
        target = min(asked.output_tokens, chosen.max_model_len - asked.prompt_tokens)
        arrivals.setdefault(step, []).append(Sequence(asked, target))
    in_flight: deque = deque()
    depth = 2 if chosen.async_scheduling else 1
    lines = []
    for step in range(steps):
        for sequence in arrivals.get(step, ()):
            scheduler.add(sequence)
        batch = scheduler.next_batch()
        line = {"step": step, "preempted": [s.request.id for s in batch.preempted] if batch else []}
        admitted = batch.admitted if batch else []
        line["new"] = [s.request.id for s in admitted if not s.preemptions]
        line["resumed"] = [s.request.id for s in admitted if s.preemptions]
        scheduled = []
        if batch:
            if batch.decodes is not None:
                scheduled += [(s, 1) for s in batch.decodes.members]
            scheduled += batch.chunks
            scheduled.sort(key=lambda pair: pair[0].order)
            for sequence, tokens in batch.chunks:
                sequence.computed += tokens
                if sequence.computed == sequence.total:
                    sequence.total += 1
                    sequence.generated += 1
                    batch.sampling.append(sequence)
                    if sequence.done:
                        batch.ending.append(sequence)
        line["scheduled"] = {s.request.id: tokens for s, tokens in scheduled}
        line["num_running"], line["num_waiting"] = len(scheduler.running), len(scheduler.waiting)
        line["free_blocks"] = pool.free
        if batch and scheduled:
            in_flight.append(batch)
        elif depth == 2:
            in_flight.append(None)
        line["finished"] = []
        if len(in_flight) >= depth or not scheduled:
            settled = in_flight.popleft() if in_flight else None
            if settled is not None:
                line["finished"] = [s.request.id for s in scheduler.settle(settled, 1)]
        line["free_blocks_end"] = pool.free
        lines.append(line)
    return lines


@pytest.mark.skipif(not FOLDER.is_dir(), reason="recorded decisions not found: shared/ beside the checkout")
@pytest.mark.parametrize("name", WORKLOADS or ["none"])
def test_every_recorded_decision_is_reproduced(name):
    workload = json.loads((FOLDER / f"{name}.workload.json").read_text())
    log = recorded(name)
    lines = simulated(workload, len(log))
    for mine, real in zip(lines, log, strict=True):
        assert {key: mine[key] for key in COMPARED} == {key: real[key] for key in COMPARED}, f"step {real['step']}"
        assert list(mine["scheduled"]) == list(real["scheduled"]), f"order in step {real['step']}"
