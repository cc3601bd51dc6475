"""Submissions to MLPerf as scenarios: offline, server and single stream, beams, splits and formats."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmsim.accuracy import submissions
from llmsim.accuracy.datasets import dataset_named
from llmsim.accuracy.lengths import drawn_from
from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.predict import predict
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of

# Every number here is made up.
ROW = Row(
    id="r", source="MLPERF-4.1", engine="TensorRT 10.2.0, CUDA 12.4", model="llama2-70b-99.9", precision="",
    device="H200-SXM-141GB", devices=8, tensor=None, pipeline=None, experts=None, prompt=None, output=None, batch=None,
    concurrency=None, rate=None, dataset="OpenORCA (MLPerf, 24576 samples); ISL<=1024, OSL<=1024", metric="req_s",
    statistic="mean", value=100.0, kind="offline-throughput", device_norm="H200-SXM", model_norm="Llama-2-70B",
    tier="B", notes="MLPerf Inference v4.1 closed Offline, submitter us", line=2,
)  # fmt: skip
GPTJ = replace(ROW, model="gptj-99", model_norm="GPT-J-6B", dataset="CNN-DailyMail (MLPerf); OSL<=128")
BERT = replace(ROW, model="bert-99", model_norm="BERT-large", dataset="SQuAD v1.1; max seq len 384")
GNMT = replace(
    ROW, source="MLPERF-0.5-GNMT", engine="TensorFlow/XLA", model="gnmt", model_norm="GNMT-MLPerf", device="TPU v3",
    device_norm="TPU v3", dataset="WMT16 En-De newstest2014",
    notes="MLPerf Inference v0.5 closed offline; TPU: num_gpus counts CORES (v3-8 board = 8 cores / 4 chips)",
)  # fmt: skip


def server(row: Row) -> Row:
    return replace(row, kind="online-serving", notes=row.notes.replace("Offline", "Server"))


def test_a_mixture_of_data_sets_is_not_the_first_of_them():
    mixed = dataset_named("MLPerf Mixtral mix (OpenOrca+GSM8K+MBXP, 15000 samples)")
    assert mixed is not None
    assert mixed.output["mean"] == 145
    assert dataset_named(ROW.dataset) is not mixed
    long = dataset_named("MLPerf Llama-3.1-405B mix (LongBench+RULER+GovReport)")
    assert long is not None
    assert long.prompt["mean"] == 9428


def test_answers_that_notes_tell_are_rounded_so_that_files_share_a_run():
    data = dataset_named(ROW.dataset)
    assert data is not None
    drawn = [
        drawn_from(data, f"generated tokens/sample in the accuracy run={mean}") for mean in (291.7, 293.4, 301.1, 145.4)
    ]
    assert [one["output"]["mean"] for one in drawn] == [290.0, 290.0, 300.0, 145.0]
    assert drawn[0] == drawn[1]


# ---------------------------------------------------------------------- one copy stands for all


def test_systems_of_equal_copies_share_a_run_and_differ_by_their_number():
    one, eight, sixteen = (case_of(replace(ROW, devices=devices)) for devices in (1, 8, 16))
    assert one.setup == eight.setup == sixteen.setup
    assert (one.share, eight.share, sixteen.share) == (1.0, 8.0, 16.0)
    # 70 GB of fp8 weights leave too little of 80 GiB: two devices a copy.
    halves = case_of(replace(ROW, device="H100-SXM-80GB", device_norm="H100-SXM-80GB"))
    assert halves.setup is not None
    assert (halves.setup.tensor, halves.share) == (2, 4.0)
    each = case_of(replace(ROW, metric="tok_s_per_gpu"))
    assert (each.quantity, each.share) == ("output_tok_s", 1.0)
    latency = case_of(replace(server(ROW), metric="tpot_ms"))
    assert latency.share == 1.0


def test_cores_of_a_tpu_chip_are_one_device():
    # 8 cores are 4 chips.  Ten beams are ten sequences, so a tenth of the sequences a second are sentences.
    case = case_of(GNMT)
    assert case.setup is not None
    assert case.setup.beams == 10
    assert case.share == pytest.approx(4 / 10)


def test_a_mixture_of_many_experts_has_attention_in_ranks_over_a_node():
    case = case_of(replace(ROW, model="deepseek-r1", model_norm="DeepSeek-V3/R1", precision="fp4", devices=16,
                           device="B200-SXM-180GB", dataset="MLPerf DeepSeek-R1 mix (4388 samples)"))  # fmt: skip
    assert case.setup is not None
    engine = json.loads(case.setup.engine)
    assert engine["enable_attention_dp"]
    assert (case.setup.tensor, engine["moe_expert_parallel_size"], case.share) == (8, 8, 2.0)
    assert engine["async_scheduling"]


# ---------------------------------------------------------------------- beams


def test_beams_are_sequences_that_compute_and_hold_their_prompt_once():
    case = case_of(GPTJ)
    assert case.setup is not None
    dataset = json.loads(case.setup.workload)["dataset"]
    prompt, shared = dataset["prompt"], dataset["shared_prefix"]["tokens"]
    told = dataset_named(GPTJ.dataset)
    assert told is not None
    # Four beams compute as much of their prompts as one request has of one; each attends to all of it.
    assert 4 * prompt["mean"] == pytest.approx(told.prompt["mean"])
    assert shared + prompt["mean"] == pytest.approx(told.prompt["mean"], abs=1)
    assert prompt["offset"] == shared
    assert dataset["shared_prefix"]["count"] == 1
    assert json.loads(case.setup.engine)["enable_prefix_caching"]
    assert case.share == pytest.approx(8 / 4)
    # A recurrent model has no cache to share.
    recurrent = json.loads(case_of(GNMT).setup.workload)["dataset"]
    assert "shared_prefix" not in recurrent
    assert recurrent["prompt"]["mean"] == pytest.approx(2.8)


def test_four_beams_cost_more_than_one_answer_and_less_than_four_requests(monkeypatch):
    monkeypatch.setattr(submissions, "FIRST_TRIAL", 600)
    monkeypatch.setattr(submissions, "MOST_TRIAL", 600)
    case, machines = case_of(GPTJ), Machines()
    assert case.setup is not None
    plain = json.loads(case.setup.workload)
    del plain["dataset"]["shared_prefix"]
    plain["dataset"]["prompt"] = dict(dataset_named(GPTJ.dataset).prompt)
    one = predict(replace(case.setup, workload=json.dumps(plain)), machines).numbers["req_s"]
    beams = predict(case.setup, machines).numbers["req_s"] / 4
    assert one / 4 < beams < one


# ---------------------------------------------------------------------- the largest rate


class Queue:
    """A made-up server: TPOT is 10 ms, and TTFT rises past any limit beyond ``capacity`` requests a second."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.tried: list[float] = []

    def __call__(self, workload, setup, machines) -> Outcome:
        rate = workload["arrival"].get("request_rate")
        if rate is None:
            return Outcome(numbers={"req_s": 10.0, "output_tok_s": 1000.0, "ttft_ms:p99": 1e6, "tpot_ms:p99": 1e6})
        self.tried.append(rate)
        slow = 1e6 if rate > self.capacity else 100.0
        return Outcome(numbers={"ttft_ms:p99": slow, "tpot_ms:p99": 10.0, "tpot_ms:mean": 9.0})


@pytest.mark.parametrize("capacity", [2.0, 9.9, 10.0, 13.0])
def test_the_largest_rate_is_found_from_above_and_from_below(capacity):
    setup = case_of(server(ROW)).setup
    assert setup is not None
    outcome = submissions.largest_rate(setup, Machines(), Queue(capacity))
    slower = submissions.SERVER_SLOWER
    assert (1 - 1.01 * submissions.PRECISION) * capacity <= outcome.numbers["req_s"] * slower <= capacity
    # 100 tokens a request; all that is timed takes longer by the same factor.
    assert outcome.numbers["output_tok_s"] == pytest.approx(100 * outcome.numbers["req_s"])
    assert outcome.numbers["tpot_ms:mean"] == pytest.approx(9.0 * slower)


def test_limits_hold_for_what_takes_longer_in_a_server_run():
    setup = case_of(server(ROW)).setup
    assert setup is not None
    # 10 ms a token are 11.3 in a server run: within 12, not within 11.
    assert submissions.largest_rate(replace(setup, limits='{"tpot": 12}'), Machines(), Queue(10.0)).numbers
    none = submissions.largest_rate(replace(setup, limits='{"tpot": 11}'), Machines(), Queue(10.0))
    assert none.reason.startswith("no rate meets the limits")


def test_rates_beyond_what_a_run_can_show_are_not_tried():
    setup = case_of(server(ROW)).setup
    assert setup is not None
    queue = Queue(1e9)
    submissions.largest_rate(setup, Machines(), queue)
    assert max(queue.tried) <= 10.0 * submissions.MOST_GROWTH * submissions.STEP


def test_a_limit_of_the_whole_request_does_not_lead_beyond_what_the_offline_run_shows():
    setup = case_of(server(ROW)).setup
    assert setup is not None

    class Overloaded(Queue):
        """Short trials beyond the 10 requests a second of the offline run still answer in time."""

        def __call__(self, workload, setup, machines) -> Outcome:
            outcome = super().__call__(workload, setup, machines)
            outcome.numbers["e2e_ms:p99"] = 5000.0
            return outcome

    queue = Overloaded(1e9)
    found = submissions.largest_rate(replace(setup, limits='{"e2e": 20000}'), Machines(), queue)
    assert max(queue.tried) <= 10.0
    assert found.numbers["req_s"] * submissions.SERVER_SLOWER == pytest.approx(10.0, rel=submissions.PRECISION)


# ---------------------------------------------------------------------- software, formats


def test_encoders_of_a_submission_run_on_tensorrt_itself():
    encoder, decoder, translator = (case_of(one).setup for one in (BERT, ROW, replace(GNMT, engine="TensorRT")))
    assert encoder is not None
    assert decoder is not None
    assert translator is not None
    assert encoder.stack == translator.stack == "tensorrt-mlperf@2024"
    assert decoder.stack == "trtllm-mlperf@2024"
    assert not json.loads(encoder.engine)["enable_chunked_prefill"]
    assert json.loads(decoder.engine)["enable_chunked_prefill"]
    assert software_of("TensorRT", "MLPerf Inference v0.5").family == "MLPerf TensorRT 2019"


@pytest.mark.parametrize(
    ("row", "device", "kept"),
    [(ROW, "H200-SXM-141GB", "fp8"), (BERT, "T4", "w8a8"), (GPTJ, "NVIDIA Jetson AGX Orin 64G", "int8"),
     (replace(GPTJ, engine="PyTorch"), "Intel Xeon Platinum 8592+", "w8a8")],
)  # fmt: skip
def test_a_submission_runs_in_eight_bits_where_the_device_can(row, device, kept):
    case = case_of(replace(row, device=device, device_norm=device, devices=1))
    assert case.setup is not None, case.reason
    assert json.loads(case.setup.engine)["quantization"] == kept


def test_every_measured_submission_is_a_scenario(shared: Path):
    rows = [one for one in read_measured(shared / "data" / "measured" / "measured.csv.gz") if "MLPERF" in one.source]
    cases = [case_of(one) for one in rows]
    assert {case.reason for case in cases} == {""}
    # So many results of few machines and scenarios: whoever submits the same system shares its simulation.
    assert len({case.setup for case in cases}) < len(rows) / 9
