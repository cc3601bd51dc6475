"""The schedulers of docs/own-scheduler.md: they keep the rules, and the short one is better where the page says so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import llmsim
from llmsim.testing import check_scheduler

PAGE = Path(__file__).parents[1] / "docs" / "own-scheduler.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the module of the page's first example, importable by its name."""
    (tmp_path / "short_prompts.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("short_prompts")
    sys.modules.pop("short_prompts")


def test_the_example_has_twenty_lines_at_most():
    assert len(blocks("python")[0].strip().splitlines()) <= 20


def test_the_examples_keep_the_rules(module):
    check_scheduler(module.ShortPromptsFirst)
    space: dict = {}
    exec(blocks("python")[2], space)  # the page's own code
    check_scheduler(space["Reserving"])


def test_the_example_beats_first_come_first_served_on_seeds_it_was_not_chosen_on(module):
    scenario = llmsim.load(blocks("yaml")[0]).with_({"seed": 7000})
    over = {"scheduler": ["continuous", "short_prompts:ShortPromptsFirst"]}
    table = llmsim.sweep(scenario, over, replications=10, n_jobs=2)
    (row,) = llmsim.paired(table, "scheduler", ["mean_ttft_ms"]).to_dict("records")
    assert row["pairs"] == 10
    assert row["hi95"] < 0
