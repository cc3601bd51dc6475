"""A switch that is on by default can be turned off, on every command that takes the engine's flags."""

import importlib

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli

COMMANDS = {
    "simulate": [], "sweep": ["--set", "max_num_seqs=8,16"], "capacity": ["--slo", "p99_ttft_ms=500"], "memory": [],
    "cycles": [], "calibrate": ["measured.json", "--model", "llama-3.1-8b"], "transform": ["--prune", "0.5"],
}  # fmt: skip


class _SeenError(Exception):
    """Ends a command as soon as it has told what was said."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("word", "value"), [("--no-enable-prefix-caching", False), ("--enable-prefix-caching", True)])
def test_a_switch_is_what_was_said(command, word, value, monkeypatch):
    seen = {}

    def look(said):
        seen.update(said)
        raise _SeenError

    monkeypatch.setattr(importlib.import_module(f"llmsim.cli.{command}"), "scenario_from", look)
    ended = CliRunner().invoke(cli, [command, *COMMANDS[command], word])
    assert seen, ended.output
    assert seen["enable_prefix_caching"] is value
    assert "enforce_eager" not in seen  # what nobody said stays with the file


def test_a_run_without_a_load_says_how_to_repeat_it():
    """The load is vLLM's own default here: nothing to say of it."""
    ended = CliRunner().invoke(cli, ["simulate", "--gpu", "h100-sxm", "--no-output", "--set", "workload.num_prompts=5"])
    assert ended.exit_code == 0, ended.output
    bare = CliRunner().invoke(cli, ["simulate", "--gpu", "h100-sxm", "--no-output", "-q"])
    assert bare.exit_code == 0, bare.output
