"""Capacity: answers that can be computed by hand, exact early ends, common random numbers, and clear failures."""

from __future__ import annotations

import json
import math
import re

import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.planning import capacity as searching
from llmsim.planning.bisection import GALLOP, MOST_STEPS, Bisection
from llmsim.planning.probes import held, run_probe


def single_server(arrival, *, count=400, **more):
    """Return an engine that computes one prompt at a time and nothing else: every request takes the same time."""
    workload = {"dataset": {"name": "fixed", "prompt": 512, "output": 1}, "num_prompts": count, **arrival}
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", workload=workload, max_num_seqs=1,
                           async_scheduling=False, enable_prefix_caching=False,
                           **{"performance.tokenize_us_per_token": 0}, **more)  # fmt: skip


@pytest.fixture(scope="module")
def service_s():
    """Return the service time of that server: the sojourn of requests that never meet."""
    alone = single_server({"arrival": {"kind": "constant", "request_rate": 0.1}}, count=5)
    times = {record.finished_s - record.arrival_s for record in llmsim.simulate(alone).records}
    assert max(times) - min(times) < 1e-9
    return max(times)


# ---------------------------------------------------------------------- the search itself


def search(bisection, threshold):
    asked = []
    while (value := bisection.ask()) is not None:
        asked.append(value)
        bisection.tell(value, value <= threshold)
    return asked


@pytest.mark.parametrize("threshold", [0.0013, 0.5, 1.0, 7.3, 90000.0])
@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
def test_a_bisection_brackets_the_threshold_within_its_tolerance(threshold, tolerance):
    bisection = Bisection(1.0, tolerance=tolerance)
    asked = search(bisection, threshold)
    assert bisection.outcome == "found"
    assert bisection.holds <= threshold < bisection.fails
    assert bisection.fails <= bisection.holds * (1 + tolerance)
    halvings = math.log2(math.log(GALLOP) / math.log1p(tolerance)) + 2
    assert len(asked) == len(set(asked)) <= 2 * MOST_STEPS + halvings


@pytest.mark.parametrize("threshold", [1, 2, 3, 17, 100])
def test_a_bisection_of_whole_numbers_ends_at_neighbours(threshold):
    bisection = Bisection(4, high=100000, tolerance=0.0, whole=True)
    asked = search(bisection, threshold)
    assert (bisection.holds, bisection.fails) == (threshold, threshold + 1)
    assert all(value == int(value) for value in asked)


def test_a_bisection_that_finds_no_end_says_so_and_ends():
    always, never = Bisection(1.0, high=50.0), Bisection(1.0, low=0.3)
    assert search(always, math.inf)[-1] == 50.0
    assert search(never, 0.0)[-1] == 0.3
    assert (always.outcome, never.outcome) == ("always", "never")
    assert len(search(Bisection(1.0), math.inf)) == MOST_STEPS + 1
    assert len(search(Bisection(1.0, tolerance=1e-15), 3.0)) < 80


@pytest.mark.parametrize("answers", [[True, False] * 50, [False, True] * 50, [False, False, True, True] * 30])
def test_a_bisection_ends_whatever_the_answers_are(answers):
    bisection = Bisection(1.0)
    for holds in answers:
        value = bisection.ask()
        if value is None:
            return
        bisection.tell(value, holds)
    pytest.fail("it does not end")


# ---------------------------------------------------------------------- answers that are known


def test_regular_arrivals_wait_only_beyond_the_rate_of_the_server(service_s):
    """D/D/1: nobody waits up to rate 1 / S; beyond, customer i waits i (S - 1 / rate), so the last of them miss."""
    answer = llmsim.capacity(
        single_server({"arrival": {"kind": "constant", "request_rate": 1.0}}),
        {"p99_ttft_ms": service_s * 1e3 * 1.001},
        tolerance=0.01,
    )
    assert answer.max_rate <= (1 / service_s) * (1 + 1e-4)
    assert answer.max_rate >= (1 / service_s) / 1.0101
    assert answer.outcome == "found"
    assert answer.binding == "p99_ttft_ms"
    assert answer.low is None
    assert "nothing is random here" in answer.notes[0]


def test_poisson_arrivals_at_a_server_of_constant_time_are_an_m_d_1_queue(service_s):
    """Pollaczek-Khinchine: mean wait / S = load / (2 (1 - load)); half of S at load 1/2, so the rate is 0.5 / S."""
    answer = llmsim.capacity(
        single_server({"arrival": {"request_rate": 2.0}}, count=1000),
        {"mean_ttft_ms": service_s * 1e3 * 1.5},
        replications=4,
    )
    expected = 0.5 / service_s
    assert answer.low < expected < answer.high * 1.02
    assert answer.max_rate == pytest.approx(expected, rel=0.05)
    assert answer.high - answer.low < 0.25 * expected
    assert len(answer.each) == 4
    assert answer.waits["seats"] == pytest.approx(1.0)
    assert answer.max_rate == pytest.approx(sum(answer.each) / 4)


def test_users_of_a_closed_loop_wait_for_each_other(service_s):
    """With n users at one server a request waits for the n - 1 others: it takes n S; five take less than 5.5 S."""
    loop = single_server({"closed_loop": {"concurrency": 1}}, count=60)
    answer = llmsim.capacity(loop, {"p99_e2el_ms": 5.5 * service_s * 1e3})
    assert answer.answer == 5
    assert answer.unit == "users"
    assert answer.key == "workload.closed_loop.concurrency"
    capped = single_server({"arrival": {"request_rate": "inf", "max_concurrency": 2}}, count=60)
    assert searching.load_of(llmsim.schema.resolve(capped))[0] == "workload.arrival.max_concurrency"


def test_a_trace_is_played_faster(service_s, tmp_path):
    """Arrivals every 4 S can be played just four times as fast before anybody waits."""
    trace = tmp_path / "regular.csv"
    rows = [f"{4 * service_s * number:.9f},512,1" for number in range(300)]
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    told = single_server({}, count=300).to_dict()
    told["workload"] = {"trace": {"path": str(trace)}}
    answer = llmsim.capacity(llmsim.load(told), {"p99_ttft_ms": service_s * 1e3 * 1.001}, tolerance=0.01)
    assert answer.key == "workload.trace.speedup"
    assert 4 / 1.0101 <= answer.answer <= 4.0005


@pytest.mark.parametrize(("load", "needed"), [(0.9, 1), (1.5, 2), (3.5, 4), (6.2, 7)])
def test_the_fewest_replicas_for_regular_arrivals(service_s, load, needed):
    """In turn, each of n replicas gets every n-th request: nobody waits when n >= rate x S."""
    scenario = single_server({"arrival": {"kind": "constant", "request_rate": load / service_s}}, count=300)
    answer = llmsim.capacity(scenario, {"p99_ttft_ms": service_s * 1e3 * 1.001}, find="replicas")
    assert answer.answer == needed
    assert answer.best is None
    if needed > 1:
        assert answer.outcome == "found"
        assert answer.binding == "p99_ttft_ms"


def test_the_cheapest_plan_is_that_of_the_least_price(service_s):
    """An A100 takes longer for a prompt than an H100; which of both is cheaper is a matter of price."""
    scenario = single_server({"arrival": {"kind": "constant", "request_rate": 1.8 / service_s}}, count=200)
    limit = {"mean_ttft_ms": service_s * 1e3 * 4}
    fewest = llmsim.capacity(scenario, limit, find="gpus")
    assert (fewest.answer, fewest.best.tensor, fewest.best.replicas) == (2, 1, 2)
    cheap = llmsim.capacity(scenario, limit, find="plan", price={"h100-sxm": 4.0, "a100-sxm": 1.0})
    assert cheap.best.gpu.startswith("a100")
    assert cheap.answer == cheap.best.devices * 1.0 < 8.0
    dear = llmsim.capacity(scenario, limit, find="plan", price={"h100-sxm": 1.0, "a100-sxm": 4.0})
    assert dear.best.gpu == "h100-sxm"
    assert dear.answer == 2.0
    assert {row.status for row in dear.plans} <= {"ok", "dearer", "too little"}


def test_a_plan_that_does_not_fit_is_a_row(service_s):
    scenario = llmsim.scenario(model="llama-3.1-70b", gpu="h100-sxm", request_rate=1, num_prompts=20,
                               tensor_parallel_size=4)  # fmt: skip
    answer = llmsim.capacity(scenario, {"mean_ttft_ms": 2000}, find="gpus", replications=1)
    statuses = {(row.tensor, row.pipeline): row.status for row in answer.plans}
    assert statuses[1, 1] == "infeasible"
    assert answer.best.devices == answer.answer == 2
    with pytest.raises(InfeasibleError, match="KV cache"):
        llmsim.capacity(scenario.with_(tensor_parallel_size=1), {"mean_ttft_ms": 2000}, replications=1)
    with pytest.raises(InfeasibleError, match="no plan can run"):
        llmsim.capacity(scenario, {"mean_ttft_ms": 2000}, find="gpus", high=1, replications=1)


# ---------------------------------------------------------------------- what makes it trustworthy


@pytest.fixture(scope="module")
def chat():
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=100).with_(
        {"workload.dataset": {"name": "random", "input_len": 700, "output_len": 40, "range_ratio": 0.5}}
    )


@pytest.mark.parametrize(
    ("slo", "goodput", "warmup"),
    [
        ({"p99_ttft_ms": 200}, {}, 0),
        ({"median_tpot_ms": 14, "p90_e2el_ms": 900}, {}, 0),
        ({"mean_ttft_ms": 80}, {}, 30),
        ({"p95_queue_time_ms": 30, "p99_itl_ms": 30}, {}, "1s"),
        ({}, {"ttft": 150, "tpot": 12}, 0),
    ],
    ids=str,
)
def test_a_run_that_is_cut_short_would_have_missed(chat, slo, goodput, warmup):
    scenario = chat.with_({"slo": slo, "goodput": goodput, "workload.warmup": warmup})
    verdicts = set()
    for rate in (20, 35, 45, 55, 70, 200):
        probe = run_probe(scenario.to_dict(), {"request_rate": rate}, 0, 3, 0.9)
        run = llmsim.simulate(scenario.with_(request_rate=rate, seed=3))
        values, ratios = held(run, 0.9)
        passes = all(result["pass"] for result in run.slo_results().values())
        if goodput:
            kept = [record for record in run.measured_records() if record.status == "finished"
                    and (record.first_token_s - record.arrival_s) * 1e3 <= goodput["ttft"]
                    and (record.finished_s - record.first_token_s) * 1e3 <= goodput["tpot"]
                    * max(record.output_tokens - 1, 1)]  # fmt: skip
            passes = len(kept) >= 0.9 * len(run.measured_records())
        assert probe.met == passes == all(ratio <= 1 for ratio in ratios.values())
        if probe.status == "cut short":
            assert ratios[probe.missed[0]] > 1
        else:
            assert dict(probe.values) == values
        verdicts.add(probe.met)
    assert verdicts == {True, False}


def test_all_rates_meet_the_same_requests(chat):
    answer = llmsim.capacity(chat, {"p99_ttft_ms": 200}, replications=3)
    seeds = {probe.replication: probe.seed for probe in answer.probes}
    assert all(seeds[probe.replication] == probe.seed for probe in answer.probes)
    assert len(set(seeds.values())) == 3
    ratios = {number: [] for number in range(3)}
    for probe in answer.probes:
        if probe.offered is not None:
            ratios[probe.replication].append(probe.offered / probe.point[answer.key])
    # Gaps are the same up to the rate, so what came of it in requests per second is the same multiple of it.
    assert all(len(found) > 2 and max(found) / min(found) < 1 + 1e-6 for found in ratios.values())
    assert len({round(found[0], 9) for found in ratios.values()}) == 3


def test_stricter_objectives_and_longer_prompts_never_allow_a_higher_rate(chat):
    rates = [llmsim.capacity(chat, {"p99_ttft_ms": limit}, replications=2).max_rate for limit in (100, 200, 400)]
    assert rates == sorted(rates)
    longer = chat.with_({"workload.dataset.input_len": 1400})
    assert llmsim.capacity(longer, {"p99_ttft_ms": 200}, replications=2).max_rate < rates[1]


def test_searches_side_by_side_give_the_same_answer(chat):
    alone = llmsim.capacity(chat, {"p99_ttft_ms": 200}, tolerance=0.1)
    beside = llmsim.capacity(chat, {"p99_ttft_ms": 200}, tolerance=0.1, n_jobs=2, backend="threading")
    assert alone == beside


def test_the_ends_of_the_search_are_said(chat):
    single = single_server({"closed_loop": {"concurrency": 1}}, count=60)
    never = llmsim.capacity(chat, {"p99_ttft_ms": 0.5}, replications=2)
    assert (never.answer, never.outcome, never.binding) == (None, "never", "p99_ttft_ms")
    assert "no workload.arrival.request_rate that was tried" in repr(never)
    always = llmsim.capacity(chat, {"p99_ttft_ms": 1e9}, replications=2, high=20)
    assert (always.answer, always.outcome, always.binding) == (20, "always", None)
    assert "at least 20" in repr(always)
    assert llmsim.capacity(single, {"p99_e2el_ms": 1e9}, replications=1).outcome == "always"
    few = llmsim.capacity(chat.with_(request_rate=500), {"p99_ttft_ms": 60}, find="replicas", high=2, replications=1)
    assert (few.answer, few.outcome) == (None, "never")


def test_where_no_limit_breaks_the_answer_is_what_can_be_served(service_s):
    """A queue at one server stops to settle at rate 1 / S, however long one may wait in it."""
    answer = llmsim.capacity(
        single_server({"arrival": {"kind": "constant", "request_rate": 1.0}}, count=2000), {"p99_ttft_ms": 1e9}
    )
    assert answer.binding == "saturated"
    assert 0.97 < answer.max_rate * service_s < 1.03


def test_a_run_out_of_time_counts_as_missed_and_is_told(chat):
    answer = llmsim.capacity(chat.with_(num_prompts=5000), {"p99_ttft_ms": 1e9}, replications=1, time_limit_s=1e-9,
                             low=1.0, high=2.0)  # fmt: skip
    assert answer.answer is None
    assert any("time limit, counted as missed" in note for note in answer.notes)


def test_the_table_has_a_row_for_each_run(chat):
    answer = llmsim.capacity(chat, {"p99_ttft_ms": 200}, replications=2)
    table = answer.table
    assert len(table) == len(answer.probes)
    assert set(table["status"]) <= {"met", "missed", "cut short"}
    assert (table.loc[table["status"] == "met", "p99_ttft_ms"] <= 200).all()
    json.dumps(answer.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no objective"),
        ({"slo": {"p99_tft_ms": 5}}, "no such metric"),
        ({"slo": {"request_throughput": 5}}, "grows with the load"),
        ({"slo": {"p99_ttft_ms": 5}, "find": "speed"}, "one of rate, replicas, gpus, plan"),
        ({"slo": {"p99_ttft_ms": 5}, "low": 5, "high": 3}, "low is above high"),
        ({"slo": {"p99_ttft_ms": 5}, "low": -5}, "not a positive number"),
        ({"slo": {"p99_ttft_ms": 5}, "find": "replicas", "high": 2.5}, "not a whole number"),
        ({"slo": {"p99_ttft_ms": 5}, "tolerance": 0}, "tolerance"),
        ({"slo": {"p99_ttft_ms": 5}, "replications": 0}, "at least 1"),
        ({"goodput": {"ttft": 5}, "attain": 1.5}, "attain"),
        ({"goodput": {"speed": 5}}, "goodput"),
        ({"slo": {"p99_ttft_ms": 5}, "price": 3.0}, "price goes with"),
        ({"slo": {"p99_ttft_ms": 5}, "find": "plan", "price": {"h1": 3.0}}, "h1"),
        ({"slo": {"p99_ttft_ms": 5}, "find": "plan", "price": -1.0}, "not positive"),
    ],
)
def test_mistakes_are_named_before_anything_runs(chat, options, message, monkeypatch):
    monkeypatch.setattr("llmsim.planning.searching.run_probe", lambda *_: pytest.fail("a run was begun"))
    with pytest.raises(ScenarioError, match=re.escape(message)):
        llmsim.capacity(chat, **options)


def test_replications_that_would_all_be_the_same_are_refused():
    fixed = single_server({"arrival": {"kind": "constant", "request_rate": 1.0}})
    with pytest.raises(ScenarioError, match="nothing is random"):
        llmsim.capacity(fixed, {"p99_ttft_ms": 100}, replications=2)


# ---------------------------------------------------------------------- the command


SMALL = ["--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--num-prompts", "60", "-j", "1"]


def call(*words):
    return CliRunner().invoke(cli, ["capacity", *words], prog_name="llmsim")


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """The command writes to runs/ in the current folder."""
    monkeypatch.chdir(tmp_path)


def test_the_command_prints_probes_answer_and_what_may_come_next():
    said = call(*SMALL, "--request-rate", "8", "--slo", "p99_ttft_ms=200", "--tolerance", "0.1")
    assert said.exit_code == 0, said.output
    assert re.search(r"^request_rate +met +p99_ttft_ms", said.stdout)
    assert re.search(r"requests/s \(95 % interval [\d.]+ to [\d.]+\)", said.stdout)
    assert "breaks first: p99_ttft_ms" in said.stdout
    following = re.search(r"next: llmsim (simulate .*)", said.stdout)[1]
    again = CliRunner().invoke(cli, [*following.split(), "--no-output"])
    assert again.exit_code in (0, 1), again.output


def test_json_and_exit_codes():
    words = (*SMALL, "--request-rate", "8", "--json", "--replications", "1", "--tolerance", "0.1")
    said = call(*words, "--goodput", "ttft:200", "tpot:50", "--attain", "0.9")
    told = json.loads(said.stdout)
    assert said.exit_code == 0
    assert told["binding"] == "good_share"
    assert told["answer"] > 8
    assert call(*words, "--slo", "p99_ttft_ms=0.1").exit_code == 1
    assert call(*SMALL).exit_code == 3
    assert call(*words, "--slo", "p99_ttft_ms=100", "--price-per-hour", "x").exit_code == 2


def test_plans_are_a_table():
    said = call(*SMALL, "--request-rate", "40", "--slo", "p99_ttft_ms=300", "--find", "plan",
                "--price-per-hour", "h100-sxm=2.5", "--price-per-hour", "a100-sxm=1.5", "--high", "4")  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "an hour" in said.stdout
    assert re.search(r"a100-sxm\S* +1 +1 ", said.stdout)
    best = re.search(r"x TP\d+ on (\S+):", said.stdout)[1]
    following = re.search(r"next: llmsim (simulate .*)", said.stdout)[1]
    assert f"--gpu {best} " in following  # not the device that the search began with
    assert {line.split()[-2] for line in said.stdout.splitlines() if " best " in line}.isdisjoint({"-"})


def test_what_the_best_plan_reaches_is_what_its_run_gives():
    base = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=60)
    answer = llmsim.capacity(base, {"p99_ttft_ms": 300}, find="gpus", replications=1)
    assert answer.sentence().endswith(": 1 GPU")
    assert answer.reached(answer.best) == {"p99_ttft_ms": llmsim.simulate(base).metrics["p99_ttft_ms"]}
    others = [row for row in answer.plans if row.replicas is None]
    assert others
    assert all(answer.reached(row) == {} for row in others)


def test_a_load_without_a_rate_is_random_as_soon_as_it_has_one():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=60)
    found = llmsim.capacity(scenario, slo={"p99_ttft_ms": 500}, high=4, tolerance=0.2)
    assert len(found.each) == 3
    assert not any("nothing is random" in note for note in found.notes)


def test_an_interrupted_search_goes_on_where_it_was(tmp_path, monkeypatch):
    from llmsim.planning import searching

    asked = [*SMALL, "--request-rate", "8", "--slo", "p99_ttft_ms=200", "--tolerance", "0.1", "-o", str(tmp_path / "x")]
    whole = json.loads(call(*asked, "--json").stdout)
    real, ran = searching.run_probe, []

    def broken(*job):
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append(job)
        return real(*job)

    monkeypatch.setattr(searching, "run_probe", broken)
    stopped = call(*asked)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.output
    monkeypatch.setattr(searching, "run_probe", lambda *job: ran.append(job) or real(*job))
    resumed = call(*asked, "--resume", "--json")
    assert json.loads(resumed.stdout) == whole
    assert len(ran) == len(whole["probes"])  # none was run twice
    again = call(*asked, "--resume", "--json")
    assert json.loads(again.stdout) == whole
    assert len(ran) == len(whole["probes"])
    assert len((tmp_path / "x" / "probes.csv").read_text().splitlines()) == len(ran) + 1
    assert json.loads((tmp_path / "x" / "capacity.json").read_text()) == whole


def test_another_question_takes_nothing_over(tmp_path):
    scenario = single_server({"arrival": {"kind": "poisson", "request_rate": 1.0}})
    file = tmp_path / "probes.jsonl"
    first = llmsim.capacity(scenario, {"p99_ttft_ms": 4000}, replications=1, checkpoint=file)
    lines = len(file.read_text().splitlines())
    assert lines == len(first.probes)
    other = llmsim.capacity(scenario, {"p99_ttft_ms": 2000}, replications=1, checkpoint=file)
    assert len(file.read_text().splitlines()) == lines + len(other.probes)
    assert llmsim.capacity(scenario, {"p99_ttft_ms": 4000}, replications=1, checkpoint=file) == first
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(llmsim.InputError, match="not a line of a search's checkpoint"):
        llmsim.capacity(scenario, {"p99_ttft_ms": 2000}, replications=1, checkpoint=tmp_path / "notes.txt")
