"""The continuous scheduler decides what vLLM 0.33's own scheduler class decided, step by step."""

import gzip
import json
from dataclasses import replace
from itertools import groupby, zip_longest
from pathlib import Path

import pytest

from llmsim.kvcache.prefix import PrefixCache
from llmsim.testing import conformance
from llmsim.testing.conformance import decisions
from llmsim.workload.request import History, Request

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


class ToldAsHistories(PrefixCache):
    """A cache that is told parts with names, as the turns of sessions are, instead of the content of each block."""

    __slots__ = ("_contents",)

    def __init__(self, blocks: int, block_size: int, *, max_chunk: int, contents) -> None:
        super().__init__(blocks, block_size, max_chunk=max_chunk)
        self._contents = contents

    def names(self, sequence) -> list[int]:
        if sequence.names is None:
            request = sequence.request
            tokens = [token for (token,) in self._contents(request, 1)]
            told = replace(request, prefix=history(request, tokens[: request.prompt_tokens]))
            sequence.names = self._names.of(told)
            self.caches = self.caches or bool(sequence.names)
        return sequence.names


def history(request: Request, prompt: list[tuple[str, int]]) -> History:
    """Return the parts of a prompt: the stretches of one stream of tokens each, by stream and first token."""
    parts = []
    for (stream, first), stretch in groupby(enumerate(prompt), lambda at: (at[1][0], at[1][1] - at[0])):
        tokens = list(stretch)
        begins = tokens[0][1][1]
        parts.append((f"{stream} from {begins}" if begins else stream, len(tokens)))
        assert first == begins - tokens[0][0]
    return History(tuple(parts), f"out:{request.id}")


@pytest.mark.skipif(not FOLDER.is_dir(), reason="recorded decisions not found: shared/ beside the checkout")
@pytest.mark.parametrize("name", WORKLOADS or ["none"])
def test_histories_find_what_contents_of_blocks_find(name, monkeypatch):
    monkeypatch.setattr(conformance, "PrefixCache", ToldAsHistories)
    workload = json.loads((FOLDER / f"{name}.workload.json").read_text())
    for mine, real in zip_longest(decisions(workload), recorded(name)):
        where = f"step {real['step']}"
        assert list(mine["scheduled"].items()) == list(real["scheduled"].items()), where
        assert {key: mine[key] for key in COMPARED} == {key: real[key] for key in COMPARED}, where
