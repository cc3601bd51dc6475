"""Plots: each one is there, says its units, shows all of its data, and costs little."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import synthetic_run

from llmsim.results import plots
from llmsim.results.run import Run


@pytest.fixture(scope="module")
def run():
    return synthetic_run(requests=150, rejected=2, preempt_every=80)


@pytest.fixture(scope="module")
def overloaded():
    return synthetic_run(requests=600, rate=200, replicas=3, seats=16)


def test_every_plot_of_a_run_is_a_png(run, tmp_path):
    paths = plots.save_plots(run, tmp_path / "plots")
    assert [path.name for path in paths] == [f"{name}.png" for name in plots.PLOTS]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    first, second = (plots.save_plots(run, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_run_without_results_has_no_plots(tmp_path):
    assert plots.save_plots(Run(records=[]), tmp_path) == []


def test_one_request_is_enough(tmp_path):
    assert len(plots.save_plots(synthetic_run(requests=1), tmp_path)) == len(plots.PLOTS)


@pytest.mark.parametrize("name", plots.PLOTS)
def test_axes_name_what_they_show_and_its_unit(run, overloaded, name):
    for each in (run, overloaded):
        for axes in plots.PLOTS[name](each).axes:
            labels = axes.get_xlabel() + axes.get_ylabel()
            assert labels
            assert not axes.get_xlabel() or "(" in axes.get_xlabel()


def test_no_curve_is_cut_off(overloaded):
    for draw in (plots.queue_and_cache, plots.batch_size):
        for axes in draw(overloaded).axes:
            bottom, top = axes.get_ylim()
            for patch in axes.patches:
                values, _, _ = patch.get_data()
                assert bottom <= values.min()
                assert values.max() <= top


def test_distributions_show_their_whole_range(run):
    record = max((r for r in run.records if r.status == "finished"), key=lambda r: r.finished_s - r.arrival_s)
    axes = plots.latency_cdfs(run).axes[3]
    left, right = axes.get_xlim()
    assert left <= (record.finished_s - record.arrival_s) * 1e3 <= right
    marks = {text.get_text().split()[0] for text in axes.texts}
    assert marks == {"p50", "p90", "p99"}


def test_long_runs_are_drawn_with_few_points(overloaded, monkeypatch):
    monkeypatch.setattr(plots, "MOST_POINTS", 100)
    monkeypatch.setattr(plots, "MOST_BINS", 50)
    for draw in plots.PLOTS.values():
        for axes in draw(overloaded).axes:
            assert all(len(line.get_xdata()) <= 100 for line in axes.lines)
    patches = [patch for axes in plots.queue_and_cache(overloaded).axes for patch in axes.patches]
    assert {len(patch.get_data()[0]) for patch in patches} == {50}


def test_many_replicas_share_one_bar():
    figure = plots.time_per_kind(synthetic_run(requests=60, replicas=20, rate=40))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean of 20 replicas"]


def test_pyplot_stays_out():
    code = (
        "import sys; from llmsim.results.run import Run; import llmsim.results.plots\n"
        "assert not {'pandas', 'matplotlib', 'pydantic', 'simpy'} & set(sys.modules), 'loaded too early'\n"
        "sys.path.insert(0, 'tests'); from synthetic import synthetic_run\n"
        "llmsim.results.plots.latency_cdfs(synthetic_run(requests=5)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
