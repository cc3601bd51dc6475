"""ServeGen's client data: rates, CVs and lengths of what is generated, on clients made here and on real ones."""

import itertools
import json

import numpy as np
import pytest

from llmsim.errors import ScenarioError, TraceError
from llmsim.workload.build import build
from llmsim.workload.servegen_data import load_clients
from llmsim.workload.spec import WorkloadSpec


def client(folder, number, windows, lengths):
    trace = "".join(
        f"{600 * i},{rate},{cv},{pattern},{shape},{scale}\n"
        for i, (rate, cv, pattern, shape, scale) in enumerate(windows)
    )
    (folder / f"chunk-{number}-trace.csv").write_text(trace)
    dataset = {str(start): {key: str(value) for key, value in fields.items()} for start, fields in lengths.items()}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(dataset))


def workload(folder, seed=0, num_prompts=None, **options):
    spec = WorkloadSpec(trace={"path": str(folder), **options}, num_prompts=num_prompts)
    return build(spec, seed=seed, max_model_len=10**6)


@pytest.fixture
def pool(tmp_path):
    fixed = {0: {"input_tokens": {10: 1.0}, "output_tokens": {5: 1.0}}}
    client(tmp_path, 2, [(4.0, 2.0, "Gamma", 0.25, 1.0)] * 40, fixed)
    client(
        tmp_path,
        11,
        [(0, 0, "", 0, 0)] * 20 + [(6.0, 1.0, "Weibull", 1.0, 0.2)] * 20,
        {
            0: {"input_tokens": {}, "output_tokens": {}},
            21600: {"input_tokens": {100: 0.25, 200: 0.75}, "output_tokens": {7: 1.0}},
        },
    )
    client(tmp_path, 5, [(0, 0, "", 0, 0)] * 40, {0: {"input_tokens": {}, "output_tokens": {}}})
    return tmp_path


def test_clients_that_send_nothing_are_left_out(pool):
    assert [client.name for client in load_clients(pool)] == ["client-2", "client-11"]


def test_each_client_has_its_rate_its_cv_and_its_lengths(pool):
    requests = list(workload(pool, stop_s=24_000).start())
    times = {name: np.array([r.arrival_s for r in requests if r.tenant == name]) for name in ("client-2", "client-11")}
    steady, late = times["client-2"], times["client-11"]

    assert len(steady) == pytest.approx(96_000, abs=4.5 * 2.0 * 96_000**0.5)
    assert len(late) == pytest.approx(72_000, abs=4.5 * 72_000**0.5)
    assert np.diff(steady).std() / np.diff(steady).mean() == pytest.approx(2.0, rel=0.03)
    assert np.diff(late).std() / np.diff(late).mean() == pytest.approx(1.0, rel=0.03)
    assert late.min() >= 12_000.0
    assert {r.prompt_tokens for r in requests if r.tenant == "client-2"} == {10}
    share = np.mean([r.prompt_tokens == 200 for r in requests if r.tenant == "client-11"])
    assert share == pytest.approx(0.75, abs=4.5 * (0.1875 / 72_000) ** 0.5)


def test_requests_come_in_order_with_names_of_their_own(pool):
    requests = list(workload(pool, num_prompts=5000).start())

    assert [request.id for request in requests] == [str(number) for number in range(5000)]
    assert all(b.arrival_s >= a.arrival_s for a, b in itertools.pairwise(requests))


def test_a_wanted_rate_scales_gaps_and_keeps_their_cv(pool):
    found = workload(pool, stop_s=12_000, request_rate=20.0)
    times = np.array([request.arrival_s for request in found.start()])

    assert found.mean_rate == pytest.approx(20.0)
    assert len(times) == pytest.approx(240_000, abs=4.5 * 2.0 * 240_000**0.5)
    assert np.diff(times).std() / np.diff(times).mean() == pytest.approx(2.0, rel=0.03)


def test_thinning_keeps_the_share(pool):
    requests = list(workload(pool, stop_s=12_000, thin=0.25).start())

    assert len(requests) == pytest.approx(12_000, abs=4.5 * 3.0 * 12_000**0.5)


def test_a_slice_starts_at_its_own_zero(pool):
    times = [request.arrival_s for request in workload(pool, start_s=12_300, stop_s=12_900).start()]

    assert 0.0 <= min(times) < 5.0
    assert 590.0 < max(times) < 600.0


def test_one_client_alone(pool):
    requests = list(workload(pool / "chunk-2-trace.csv", num_prompts=10).start())

    assert {request.tenant for request in requests} == {"client-2"}


def test_images_add_to_the_prompt(tmp_path):
    fields = {
        "text_tokens": {100: 1.0},
        "output_tokens": {5: 1.0},
        "image_count": {2: 1.0},
        "image_tokens": {300: 1.0},
        "audio_count": {0: 1.0},
        "audio_tokens": {0: 1.0},
    }
    client(tmp_path, 1, [(4.0, 1.0, "Gamma", 1.0, 0.25)] * 2, {0: fields})

    assert {request.prompt_tokens for request in workload(tmp_path, num_prompts=10).start()} == {700}


@pytest.mark.parametrize(
    ("trace", "dataset", "message"),
    [
        ("0,x,1,Gamma,1,1\n", "{}", "chunk-1-trace.csv:row 1"),
        ("0,1,1,Pareto,1,1\n", "{}", "chunk-1-trace.csv:row 1"),
        ("600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "{}", "chunk-1-trace.csv:row 2"),
        ("0,1,1,Gamma,1,1\n", "{", "chunk-1-dataset.json: is not a JSON object"),
        ("0,1,1,Gamma,1,1\n", '{"0": {"input_tokens": "{}", "output_tokens": "{}"}}', "no window holds any lengths"),
        ("0,1,1,Gamma,1,1\n", '{"0": {"input_tokens": "{a: 1}", "output_tokens": "{}"}}', "column input_tokens"),
        ("0,0,0,,0,0\n", "{}", "no client in it ever sends"),
    ],
)
def test_broken_data_are_named(tmp_path, trace, dataset, message):
    (tmp_path / "chunk-1-trace.csv").write_text(trace)
    (tmp_path / "chunk-1-dataset.json").write_text(dataset)

    with pytest.raises(TraceError) as caught:
        workload(tmp_path)
    assert message in str(caught.value)


def test_arrivals_of_another_kind_are_refused(pool):
    spec = WorkloadSpec(trace={"path": str(pool)}, arrival={"kind": "poisson", "request_rate": 1})

    with pytest.raises(ScenarioError, match="bring their own arrivals"):
        build(spec, seed=0, max_model_len=1000)


@pytest.mark.parametrize("pool_name", ["reason/deepseek-r1", "language/m-large", "multimodal/mm-image"])
def test_real_clients_send_at_the_rates_of_their_data(shared, pool_name):
    folder = shared / "data" / "traces" / "servegen" / "data" / pool_name
    clients = load_clients(folder)
    expected = sum(client.expected(0.0, 43_200.0) for client in clients)
    found = workload(folder, stop_s=43_200, request_rate=2.0)
    requests = list(found.start())

    assert expected > 0
    # the largest CV among these clients is about 10, so the count spreads like 10 sqrt(n) at most
    assert len(requests) == pytest.approx(86_400, abs=4.5 * 10.0 * 86_400**0.5)
