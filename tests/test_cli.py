"""The command line as a whole: start-up, help, streams, errors and exit codes."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from llmsim.cli import app
from llmsim.cli.app import COMMANDS, cli
from llmsim.errors import InfeasibleError, ScenarioError, StalledError
from llmsim.schema import load, resolve
from llmsim.schema.flags import FLAGS

HEAVY = ("numpy", "simpy", "yaml", "pydantic", "pandas", "matplotlib", "networkx", "joblib", "rich")


def llmsim(*arguments, **kwargs):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="llmsim", **kwargs)


def process(*arguments, **kwargs):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LLMSIM_")}
    environment |= kwargs.pop("env", {})
    command = [sys.executable, "-m", "llmsim.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **kwargs)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["simulate", "--help"], ["trace", "-h"], ["check", "-h"]])
def test_help_loads_click_and_nothing_heavier(arguments):
    code = (
        "import sys\nfrom llmsim.cli.app import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stderr.strip() == "[]"
    assert answer.stdout.startswith("Usage: ")


def test_help_costs_less_than_a_fifth_of_a_second_of_cpu():
    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.2


def test_every_command_is_in_the_help_and_can_be_loaded():
    text = llmsim("--help").output

    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line[:40])}", text, re.MULTILINE)
        assert isinstance(cli.get_command(click.Context(cli), name), click.Command)
    assert set(COMMANDS) == {
        "simulate", "sweep", "capacity", "compare", "validate", "calibrate", "memory", "transform", "cycles", "scaling",
        "report", "plot", "init", "check", "list", "show", "trace", "conform", "schema",
    }  # fmt: skip


def test_every_engine_flag_is_an_option_of_simulate():
    command = cli.get_command(click.Context(cli), "simulate")
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}

    for flag in FLAGS.values():
        assert flag.option in options
        assert not flag.short or flag.short in options
        if flag.kind == "bool":
            assert f"--no-{flag.option.removeprefix('--')}" in options


def test_flags_that_are_not_modelled_are_not_in_the_help():
    text = llmsim("simulate", "--help").output

    for flag in FLAGS.values():
        assert (re.search(rf"{flag.option}\b(?!-)", text) is not None) == (flag.status == "modelled"), flag.name


def test_the_version_is_printed():
    assert re.fullmatch(r"llmsim \d+\.\d+\.\d+\S*\n", llmsim("--version").output)


def test_usage_errors_exit_with_2():
    for arguments in (["nothing"], ["simulate", "--nothing"], ["simulate", "a.yaml", "b.yaml"], ["list", "nothing"]):
        assert llmsim(*arguments).exit_code == 2


def command_that_raises(error, monkeypatch):
    @click.command()
    @app.common
    def fail():
        raise error

    monkeypatch.setitem(COMMANDS, "fail", ("llmsim.cli.app:unused", ""))
    monkeypatch.setattr(app.Application, "get_command", lambda *_: fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScenarioError("x.yaml:1:2: a: bad (got 1)\nhint: good\nx.yaml:2:2: b: bad"), 3),
        (InfeasibleError("does not fit"), 4),
        (StalledError("stands still"), 70),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oh"), 70),
    ],
)
def test_errors_become_messages_and_exit_codes(monkeypatch, error, code):
    command_that_raises(error, monkeypatch)

    result = llmsim("fail")

    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")


def test_each_line_of_an_error_is_marked_and_hints_stand_below_it(monkeypatch):
    command_that_raises(ScenarioError("a: bad\nhint: good\nb: bad"), monkeypatch)

    assert llmsim("fail").stderr == "error: a: bad\nhint: good\nerror: b: bad\n"


def test_internal_errors_ask_to_be_reported_and_show_where_with_vv(monkeypatch):
    command_that_raises(ZeroDivisionError("oh"), monkeypatch)

    assert "please report: ZeroDivisionError: oh\nhint: " in llmsim("fail").stderr
    assert "Traceback" in llmsim("fail", "-vv").stderr
    assert "Traceback" in llmsim("-vv", "fail").stderr


def test_the_json_schema_is_printed():
    assert json.loads(llmsim("schema").stdout)["title"] == "llmsim scenario"


def test_check_says_what_would_run(tmp_path):
    (tmp_path / "s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-8b\nengine: {tensor_parallel_size: 2}\n")

    result = llmsim("check", tmp_path / "s.yaml")

    assert result.exit_code == 0
    assert "s.yaml: ok" in result.stdout
    assert re.search(r"cache +[\d,]+ blocks \(estimated", result.stdout)
    assert result.stderr == ""
    told = json.loads(llmsim("check", tmp_path / "s.yaml", "--json").stdout)
    assert told["valid"] is True
    assert "TP2" in told["deployment"]
    assert "# preset vllm@0.33" in llmsim("check", tmp_path / "s.yaml", "--resolved").stdout


def test_check_shows_all_errors_of_a_file(tmp_path):
    (tmp_path / "s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-8b\nsed: 1\nengine: {max_num_seqs: x}\n")

    result = llmsim("check", tmp_path / "s.yaml")

    assert result.exit_code == 3
    assert result.stderr.replace(f"{tmp_path}/", "").splitlines() == [
        "error: s.yaml:3:1: sed: unknown key (did you mean 'seed'?)",
        "error: s.yaml:4:10: engine.max_num_seqs: not a whole number (got x)",
    ]


def test_check_finds_a_model_that_does_not_fit(tmp_path):
    (tmp_path / "s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-70b\n")

    result = llmsim("check", tmp_path / "s.yaml")

    assert result.exit_code == 4
    assert "hint: " in result.stderr
    assert llmsim("check", tmp_path / "s.yaml", "--set", "engine.tensor_parallel_size=4").exit_code == 0


def test_settings_need_a_key_and_a_value(tmp_path):
    (tmp_path / "s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-8b\n")

    result = llmsim("check", tmp_path / "s.yaml", "--set", "engine.max_num_seqs")
    assert "not of the form KEY=VALUE" in result.stderr
    result = llmsim("check", tmp_path / "s.yaml", "--set", "engine.max_num_seqs=x")
    assert result.stderr == "error: --set engine.max_num_seqs: not a whole number (got x)\n"


def test_the_module_runs_as_the_command_does():
    answer = process("--version")

    assert answer.returncode == 0
    assert answer.stdout.startswith("llmsim ")


def test_the_pages_name_every_command_every_exit_code_and_every_flag():
    pages = Path(__file__).parents[1] / "docs"
    commands, scenarios = (pages / "cli.md").read_text(), (pages / "scenario.md").read_text()

    names = ["simulate", "capacity", "compare", "check", "list", "show", "trace info", "trace convert",
             "trace generate", "conform", "schema"]  # fmt: skip
    for name in names:
        assert f"| `llmsim {name}" in commands
    for code in (0, 1, 2, 3, 4, 5, 70, 130):
        assert f"| {code} |" in commands
    named = set(re.findall(r"`(\w+)`", scenarios.split("## Engine flags")[1].split("`llmsim show")[0]))
    assert set(FLAGS) <= named
    modelled = set(re.findall(r"^\| `(\w+)`", scenarios.split("## Engine flags")[1], re.MULTILINE)) - {"flag"}
    assert modelled == {name for name, flag in FLAGS.items() if flag.status == "modelled"}


def test_the_scenario_on_the_page_is_one():
    page = (Path(__file__).parents[1] / "docs" / "scenario.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]

    scenario = resolve(load(text))

    assert scenario.replicas == 4
    assert [node.devices for node in scenario.cluster.nodes] == [8, 8]
