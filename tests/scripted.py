"""Scripted workloads for the scheduler alone: requests that arrive at steps, and the log of all decisions."""

from __future__ import annotations

from itertools import islice
from typing import Any

from llmsim.testing.conformance import decisions

MOST_STEPS = 200


def ask(name: str, prompt: int | list, output: int = 1, *, at: int = 0, **more: Any) -> dict[str, Any]:
    """Return a request of ``prompt`` tokens, or of pieces ``[[stream, count], ...]``, that comes at a step."""
    pieces = {} if isinstance(prompt, int) else {"prompt": prompt}
    tokens = prompt if isinstance(prompt, int) else sum(piece[1] for piece in prompt)
    return {"id": name, "arrival_step": at, "prompt_tokens": tokens, "output_tokens": output, **pieces, **more}


def play(*requests: dict[str, Any], usable: int = 1000, block_size: int = 1, **engine: Any) -> list[dict[str, Any]]:
    """Return the log of decisions of an engine with ``usable`` blocks; one more is vLLM's null block.

    Prefix caching is off unless it is asked for, so that blocks are only counted, and contexts may be long.
    """
    plain = {"block_size": block_size, "max_model_len": 1000, "enable_prefix_caching": False}
    engine = {"num_blocks": usable + 1, **plain, **engine}
    log = list(islice(decisions({"engine": engine, "requests": list(requests)}), MOST_STEPS))
    assert len(log) < MOST_STEPS, "no end in sight"
    return log


def scheduled(log: list[dict[str, Any]]) -> list[list[tuple[str, int]]]:
    """Return for each step who computed how many tokens, in the order of service."""
    return [list(line["scheduled"].items()) for line in log]


def tokens_of(name: str, log: list[dict[str, Any]]) -> list[int]:
    """Return the tokens of one request in each step, 0 where it computed none."""
    return [line["scheduled"].get(name, 0) for line in log]
