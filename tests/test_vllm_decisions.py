"""The continuous scheduler decides what vLLM 0.33's own scheduler class decided, step by step."""

import gzip
import json
from itertools import zip_longest
from pathlib import Path

import pytest

from llmsim.testing.conformance import decisions

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "vllm_decisions"
COMPARED = (
    "new", "resumed", "preempted", "cached_tokens", "num_running", "num_waiting", "free_blocks", "finished",
    "free_blocks_end",
)  # fmt: skip
WORKLOADS = sorted(path.name.split(".")[0] for path in FOLDER.glob("*.workload.json"))


def recorded(name: str) -> list[dict]:
    """Read a log of decisions."""
    path = FOLDER / f"{name}.log.jsonl"
    text = path.read_text() if path.is_file() else gzip.decompress(path.with_suffix(".jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="recorded decisions not found: shared/ beside the checkout")
@pytest.mark.parametrize("name", WORKLOADS or ["none"])
def test_every_recorded_decision_is_reproduced(name):
    workload = json.loads((FOLDER / f"{name}.workload.json").read_text())
    for mine, real in zip_longest(decisions(workload), recorded(name)):
        assert mine is not None, f"missing from step {real['step']} on"
        assert real is not None, f"step {mine['step']} is one too many"
        where = f"step {real['step']}"
        assert list(mine["scheduled"].items()) == list(real["scheduled"].items()), where
        assert {key: mine[key] for key in COMPARED} == {key: real[key] for key in COMPARED}, where
        assert mine.get("finish_reason") == real.get("finish_reason"), where
        assert mine.get("aborted") == real.get("aborted"), where
