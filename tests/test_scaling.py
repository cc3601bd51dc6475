"""`llmsim scaling`: the fit finds exponents that are there, and operators come to those of the theory."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.errors import InputError
from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.scaling import fit, scaling

H200 = load_device("h200-sxm")


def llmsim(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="llmsim")


@pytest.mark.parametrize(("p", "l"), [(1.0, 2.0), (0.5, 0.0), (-0.7, -1.2)])
def test_a_power_law_is_found_exactly(p, l):  # noqa: E741
    counts, lengths = np.array([1e9, 7e9, 70e9]), np.array([128.0, 1000.0, 30_000.0, 100_000.0])
    law = fit(counts, lengths, 3.5e-12 * counts[:, None] ** p * lengths[None, :] ** l)
    assert (law.of_parameters, law.of_length) == (pytest.approx(p), pytest.approx(l))
    assert (law.end_of_parameters, law.end_of_length) == (pytest.approx(p), pytest.approx(l))
    assert law.scale == pytest.approx(3.5e-12)
    assert law.spread == pytest.approx(0.0, abs=1e-9)
    assert law.value(7e9, 1000.0) == pytest.approx(3.5e-12 * 7e9**p * 1000**l)


def test_one_value_of_a_variable_has_no_exponent():
    law = fit(np.array([1e9]), np.array([10.0, 100.0]), np.array([[1.0, 10.0]]))
    assert law.of_parameters is None
    assert law.of_length == pytest.approx(1.0)


def test_long_prompts_of_large_models_grow_as_the_theory_says():
    models = [load_model(name) for name in ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b")]
    found = scaling(models, H200, lengths=(8192, 32768, 131072), tensor=8, output=16)
    laws = {(one.phase, one.operator): one for one in found.operators}
    for operator in ("projections", "scores", "feed-forward", "collective", "head"):
        one = laws["prefill", operator]
        assert one.law.end_of_length == pytest.approx(one.of_length, abs=0.05), operator
    # 8B to 405B: feed-forward blocks are three fifths of the parameters, and grow with them.
    assert laws["prefill", "feed-forward"].law.end_of_parameters == pytest.approx(1.0, abs=0.05)
    assert laws["decode", "feed-forward"].law.of_length == pytest.approx(0.0, abs=1e-6)
    assert laws["decode", "scores"].law.end_of_length > 0.3
    # T falls between the linear and the quadratic part, Q falls as T grows.
    time, rate = found.laws["response time T"], found.laws["throughput Q"]
    assert 1.0 < time.end_of_length < 2.0
    assert -2.0 < rate.end_of_length < -1.0
    assert rate.of_parameters < -0.6
    assert found.too_large == ()


def test_an_lstm_reads_in_linear_time_and_steps_in_constant_time():
    found = scaling([load_model("lstm-1b")], H200, lengths=(256, 1024, 4096), output=8)
    laws = {(one.phase, one.operator): one for one in found.operators}
    assert laws["prefill", "scores"].law.of_length == pytest.approx(1.0, abs=0.01)
    assert laws["decode", "scores"].law.of_length == pytest.approx(0.0, abs=1e-9)
    assert found.laws["step"].of_length == pytest.approx(0.0, abs=1e-9)


def test_models_are_sorted_by_parameters_and_those_too_large_are_named():
    found = scaling([load_model("llama-3.1-70b"), load_model("llama-3.2-1b")], H200, lengths=(100, 10), output=4)
    assert found.models == ("llama-3.2-1b", "llama-3.1-70b")
    assert found.lengths == (10, 100)
    assert found.too_large == ()
    small = scaling([load_model("llama-3.1-70b"), load_model("llama-3.2-1b")], load_device("l4"), lengths=(10, 100))
    assert small.too_large == ("llama-3.1-70b",)


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="at least two points"):
        scaling([load_model("llama-3.2-1b")], H200, lengths=(10,))


def test_the_command_prints_draws_and_speaks_json(tmp_path):
    words = ["scaling", "--models", "llama-3.2-1b,llama-3.2-3b", "--lengths", "128,1024", "-tp", 1, "--output-len", 8]
    picture = tmp_path / "scaling.png"
    answer = llmsim(*words, "--plot", picture)
    assert answer.exit_code == 0
    for word in ("response time T", "throughput Q", "L^2 layers width", "P in theory", "l at the end"):
        assert word in answer.output
    assert picture.read_bytes()[:4] == b"\x89PNG"
    found = json.loads(llmsim(*words, "--json").stdout)
    assert found["lengths"] == [128, 1024]
    assert len(found["response_s"]) == 2
    assert llmsim(*words, "--plot", tmp_path / "x.txt").exit_code != 0
    assert "whole numbers" in llmsim("scaling", "--lengths", "many").output
