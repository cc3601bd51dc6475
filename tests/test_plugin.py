"""The pytest plugin, as a user's own repository meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import llmsim
from llmsim.errors import InputError
from llmsim.testing import assert_slo
from llmsim.testing.baseline import file_name

pytest_plugins = ["pytester"]

SCENARIO = """\
model: llama-3.1-8b
cluster: {gpu: h100-sxm}
workload:
  dataset: {name: random, input_len: 64, output_len: 8}
  arrival: {request_rate: 8}
  num_prompts: 20
"""
CHECK = """
def test_chat(llmsim_run, llmsim_baseline):
    run = llmsim_run("chat.yaml", request_rate=4)
    llmsim_baseline.check(run, ["p99_ttft_ms", "output_throughput", "request_goodput"])
"""


@pytest.fixture(scope="module")
def run():
    return llmsim.simulate(llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=20))


@pytest.fixture
def repository(run, pytester, monkeypatch):
    """Return a folder with one scenario; where pytest runs as on a developer's machine.

    The run comes first: pytester forgets the modules that a pytest within pytest has imported, and NumPy cannot be
    imported twice.
    """
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")  # it costs a second a run
    (pytester.path / "chat.yaml").write_text(SCENARIO)
    return pytester


def baseline_of(repository, name="test_chat") -> Path:
    return next(repository.path.glob(f"__llmsim__/*/{name}.json"))


# ---------------------------------------------------------------------- what it costs everybody else


def test_loading_the_plugin_loads_pytest_and_nothing_heavier():
    code = (
        "import sys, pytest; before = set(sys.modules); import llmsim.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["llmsim", "llmsim.testing", "llmsim.testing.plugin"]


def test_a_run_of_pytest_that_uses_no_fixture_loads_nothing_of_the_simulator(repository):
    repository.makepyfile(
        """
        import sys

        def test_light():
            assert "llmsim.testing.plugin" in sys.modules
            heavy = {"numpy", "simpy", "pandas", "pydantic", "matplotlib", "networkx", "joblib", "click"}
            assert not heavy & set(sys.modules)
        """
    )
    repository.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_options_and_fixtures_explain_themselves(repository):
    repository.runpytest("--help").stdout.fnmatch_lines(["*--llmsim-update*", "*--llmsim-rtol=X*"])
    fixtures = repository.runpytest("--fixtures")
    fixtures.stdout.fnmatch_lines(["llmsim_run *session scope*", "llmsim_baseline *"])


# ---------------------------------------------------------------------- llmsim_run


def test_a_scenario_is_simulated_once_a_session_whatever_names_it(repository):
    repository.makepyfile(
        """
        import llmsim
        import pytest

        seen = []

        @pytest.mark.parametrize("way", [1, 2, 3, 4])
        def test_way(llmsim_run, way):
            loaded = llmsim.load("chat.yaml")
            run = {
                1: lambda: llmsim_run("chat.yaml", request_rate=4),
                2: lambda: llmsim_run(loaded.with_(request_rate=4)),
                3: lambda: llmsim_run(loaded.to_dict(), request_rate=4),
                4: lambda: llmsim_run("chat.yaml", **{"workload.arrival.request_rate": "4"}),
            }[way]()
            seen.append(run)
            assert run is seen[0]

        def test_another(llmsim_run):
            other = llmsim_run("chat.yaml")
            assert other is not seen[0]
            assert other.metrics["duration"] < seen[0].metrics["duration"]
            assert llmsim_run("chat.yaml", **{"output.percentiles": [10]}).metrics["p10_ttft_ms"] > 0
        """
    )
    repository.runpytest().assert_outcomes(passed=5)


def test_a_trace_that_has_changed_is_simulated_again(repository):
    repository.makepyfile(
        """
        import os

        def test_trace(llmsim_run, tmp_path):
            trace = tmp_path / "trace.csv"
            trace.write_text("arrival_s,prompt_tokens,output_tokens\\n0,10,5\\n")
            one = llmsim_run(model="llama-3.1-8b", gpu="h100-sxm", trace=str(trace))
            trace.write_text("arrival_s,prompt_tokens,output_tokens\\n0,10,5\\n1,10,5\\n")
            two = llmsim_run(model="llama-3.1-8b", gpu="h100-sxm", trace=str(trace))
            assert (one.metrics["completed"], two.metrics["completed"]) == (1, 2)
        """
    )
    repository.runpytest().assert_outcomes(passed=1)


def test_the_path_of_a_scenario_starts_from_the_working_directory_or_the_root(repository, monkeypatch):
    repository.makeini("[pytest]")
    repository.makepyfile(
        """
        def test_from_elsewhere(llmsim_run, monkeypatch, tmp_path):
            monkeypatch.chdir(tmp_path)
            assert llmsim_run("chat.yaml").metrics["completed"] == 20
        """
    )
    repository.runpytest().assert_outcomes(passed=1)


# ---------------------------------------------------------------------- llmsim_baseline


def test_without_a_baseline_the_test_fails_with_the_command_that_makes_one(repository):
    repository.makepyfile(test_slo=CHECK)
    result = repository.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no baseline *test_chat.json", "*pytest 'test_slo.py::test_chat' --llmsim-update"])
    assert not list(repository.path.glob("__llmsim__/**/*.json"))


def test_a_baseline_is_made_kept_and_held(repository):
    repository.makepyfile(test_slo=CHECK)
    repository.runpytest("--llmsim-update").assert_outcomes(passed=1)
    file = repository.path / "__llmsim__" / "test_slo" / "test_chat.json"
    kept = json.loads(file.read_text())
    assert kept["llmsim"] == llmsim.__version__
    assert kept["preset"].startswith("vllm@")
    assert list(kept["metrics"]) == ["p99_ttft_ms", "output_throughput", "request_goodput"]
    assert kept["metrics"]["request_goodput"] is None
    before = file.read_bytes()
    repository.runpytest().assert_outcomes(passed=1)
    repository.runpytest("--llmsim-update").assert_outcomes(passed=1)
    assert file.read_bytes() == before


def test_a_metric_that_moves_beyond_the_tolerance_fails_with_both_values(repository):
    repository.makepyfile(test_slo=CHECK)
    repository.runpytest("--llmsim-update").assert_outcomes(passed=1)
    file = baseline_of(repository)
    kept = json.loads(file.read_text())
    kept["metrics"]["p99_ttft_ms"] /= 1.05
    kept["numpy"] = "1.0.0"
    file.write_text(json.dumps(kept))
    result = repository.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "*not within the baseline*test_chat.json",
        "*p99_ttft_ms: was *, it is * (+5.00%, tolerance 0.02)",
        "*note: numpy was 1.0.0 then*",
        "*pytest 'test_slo.py::test_chat' --llmsim-update",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*output_throughput: was*")
    repository.runpytest("--llmsim-rtol", "0.06").assert_outcomes(passed=1)
    repository.runpytest("--llmsim-rtol", "0.04").assert_outcomes(failed=1)


def test_a_changed_scenario_is_named_as_the_reason(repository):
    repository.makepyfile(test_slo=CHECK)
    repository.runpytest("--llmsim-update").assert_outcomes(passed=1)
    (repository.path / "chat.yaml").write_text(SCENARIO.replace("input_len: 64", "input_len: 2048"))
    result = repository.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*note: scenario_sha256 was *"])


def test_a_metric_that_the_baseline_lacks_fails(repository):
    repository.makepyfile(test_slo=CHECK)
    repository.runpytest("--llmsim-update").assert_outcomes(passed=1)
    repository.makepyfile(test_slo=CHECK.replace('"output_throughput"', '"mean_tpot_ms"'))
    result = repository.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mean_tpot_ms: not in the baseline*"])


@pytest.mark.parametrize("value", ["true", "1"])
def test_baselines_are_not_written_where_ci_is_set(repository, monkeypatch, value):
    monkeypatch.setenv("CI", value)
    repository.makepyfile(test_slo=CHECK)
    result = repository.runpytest("--llmsim-update")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmsim-update: refused*CI is set*"])
    assert not list(repository.path.glob("__llmsim__"))


def test_parameters_classes_and_named_checks_have_files_of_their_own(repository):
    repository.makepyfile(
        test_many="""
        import pytest

        class TestChat:
            @pytest.mark.parametrize("rate", [4, 8])
            def test_rate(self, llmsim_run, llmsim_baseline, rate):
                run = llmsim_run("chat.yaml", request_rate=rate)
                llmsim_baseline.check(run, ["mean_ttft_ms"])
                llmsim_baseline.check(run, ["duration"], name="length of the run")
        """
    )
    repository.runpytest("--llmsim-update").assert_outcomes(passed=2)
    assert len(list(repository.path.glob("__llmsim__/test_many/TestChat.test_rate-[48]*.json"))) == 4
    repository.runpytest().assert_outcomes(passed=2)


def test_two_checks_without_names_are_a_mistake(repository):
    repository.makepyfile(
        """
        def test_twice(llmsim_run, llmsim_baseline):
            run = llmsim_run("chat.yaml")
            llmsim_baseline.check(run, ["mean_ttft_ms"])
            llmsim_baseline.check(run, ["mean_ttft_ms"])
        """
    )
    result = repository.runpytest("--llmsim-update")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*give each check a name*"])


def test_every_test_has_a_file_name_of_its_own():
    names = ["test_a", "test_a[1]", "test_a[1/2]", "test_a[1:2]", "test_a[1 2]", "T::test_a", "T::test_a[x-y]"]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(files)
    assert all(set(file) <= set("abcdefghijklmnopqrstuvwxyzT0123456789._-") for file in files)
    assert file_name("T::test_a[x-y]") == "T.test_a-x-y"


# ---------------------------------------------------------------------- assert_slo


def test_objectives_that_hold_say_nothing(run):
    value = run.metrics["p99_ttft_ms"]
    assert_slo(run, f"p99_ttft_ms <= {value!r}", f"p99_ttft_ms>={value!r}", "completed > 19", "p99.5_itl_ms < 1e6")


def test_each_objective_that_is_missed_says_by_how_much(run):
    value = run.metrics["p99_ttft_ms"]
    with pytest.raises(AssertionError) as caught:
        assert_slo(run, f"p99_ttft_ms <= {value / 1.25!r}", "completed >= 20", "completed >= 40", "completed < 20")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(", 25.0% above")
    assert lines[1] == "completed >= 40: it is 20, 50.0% below"
    assert lines[2].startswith("completed < 20: it is 20")
    assert lines[3].startswith("note: 20 finished requests are few for ")


def test_an_objective_on_nothing_measured_is_missed(run):
    with pytest.raises(AssertionError, match="there is nothing to measure"):
        assert_slo(run, "request_goodput >= 1")


def test_a_run_that_was_stopped_keeps_no_objective():
    long = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=3000)
    stopped = llmsim.simulate(long, time_limit_s=1e-6)
    with pytest.raises(AssertionError, match=r"stopped early \(time limit\)"):
        assert_slo(stopped, "completed >= 0")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("p99_ttft <= 500", "did you mean 'p99_ttft_ms'"),
        ("p101_ttft_ms <= 500", "unknown metric"),
        ("p99_ttft_ms = 500", "not of the form"),
        ("p99_ttft_ms <= 500 ms", "not of the form"),
    ],
)
def test_an_objective_that_cannot_be_read_is_a_mistake(run, condition, message):
    with pytest.raises(InputError, match=message):
        assert_slo(run, condition)


def test_no_objective_at_all_is_a_mistake(run):
    with pytest.raises(InputError, match="no condition"):
        assert_slo(run)
