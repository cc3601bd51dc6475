"""Defaults of the preset vllm@0.33, and what it says about flags that are not modelled."""

import dataclasses

import pytest

from llmsim.engine_options import EngineOptions, cudagraph_sizes
from llmsim.hardware import Device
from llmsim.model import load_model
from llmsim.schema.engine import choose
from llmsim.schema.flags import DEFAULT_PRESET, FLAGS, Flag
from llmsim.schema.vllm import batch_defaults

GIB = 2**30
MODEL = load_model("llama-3.1-8b")


def device(name="h100-sxm", *, memory=80 * GIB, kind="gpu"):
    return Device(name, name, "maker", kind, memory, 1e12, {"bf16": 1e14}, 1e9, 100, 1e11, 1e10, 700.0)


def options(given=None, on=None, model=MODEL):
    return choose(given or {}, DEFAULT_PRESET, model, on or device())


# vLLM 0.33.0, EngineArgs.get_batch_defaults; memories in GiB as the devices report them
@pytest.mark.parametrize(
    ("name", "memory", "kind", "serve", "offline"),
    [
        ("b200-sxm", 179, "gpu", (16384, 1024), (16384, 1024)),
        ("mi300x", 191, "gpu", (16384, 1024), (16384, 1024)),
        ("h100-sxm", 80, "gpu", (8192, 1024), (16384, 1024)),
        ("h200-sxm", 140, "gpu", (8192, 1024), (16384, 1024)),
        ("h20", 96, "gpu", (8192, 1024), (16384, 1024)),
        ("a100-sxm-80gb", 80, "gpu", (2048, 256), (8192, 256)),
        ("gb10", 119, "gpu", (2048, 256), (8192, 256)),
        ("l40s", 45, "gpu", (2048, 256), (8192, 256)),
        ("xeon", 512, "cpu", (2048, 128), (4096, 256)),
    ],
)
def test_batch_defaults_follow_memory_name_and_entry_point(name, memory, kind, serve, offline):
    on = device(name, memory=memory * GIB, kind=kind)

    assert batch_defaults(on, 1) == serve
    assert batch_defaults(on, 1, offline=True) == offline


def test_the_defaults_of_a_cpu_grow_with_its_ranks():
    assert batch_defaults(device("xeon", kind="cpu"), 4) == (8192, 512)


def test_defaults_of_serve_on_an_h100():
    chosen = options().options

    assert (chosen.max_num_batched_tokens, chosen.max_num_seqs) == (8192, 1024)
    assert chosen.max_num_scheduled_tokens == 8192
    assert chosen.max_num_active_seqs == 1024
    assert chosen.max_model_len == 131072
    assert chosen.block_size == 16
    assert chosen.gpu_memory_utilization == 0.92
    assert chosen.enable_chunked_prefill
    assert chosen.scheduler_reserve_full_isl
    assert chosen.async_scheduling
    assert chosen.watermark == 0.0
    assert (chosen.weight_format, chosen.cache_format) == ("bf16", "bf16")
    assert chosen.max_concurrent_batches == 2


def test_defaults_are_cut_to_what_can_be_used():
    # tokens = min(tokens, seqs x max_model_len), then seqs = min(seqs, tokens)
    few = options({"max_num_seqs": 4, "max_model_len": 100}).options
    assert (few.max_num_batched_tokens, few.max_num_seqs) == (400, 4)
    small = options({"max_num_batched_tokens": 64}).options
    assert (small.max_num_batched_tokens, small.max_num_seqs) == (64, 64)


def test_without_chunked_prefill_a_step_takes_the_longest_prompt():
    assert options({"enable_chunked_prefill": False}).options.max_num_batched_tokens == 131072


def test_performance_mode_throughput_doubles_both_defaults():
    chosen = options({"performance_mode": "throughput"}).options

    assert (chosen.max_num_batched_tokens, chosen.max_num_seqs) == (16384, 2048)


# the sequence that vLLM's documentation gives: 1, 2, 4, then by 8 to 256, then by 16
def test_graph_sizes_follow_the_rule():
    sizes = cudagraph_sizes(512)

    assert sizes[:5] == (1, 2, 4, 8, 16)
    assert sizes[-3:] == (480, 496, 512)
    assert 248 in sizes
    assert 256 in sizes
    assert 264 not in sizes
    assert len(sizes) == 3 + 31 + 17
    assert cudagraph_sizes(20) == (1, 2, 4, 8, 16)
    assert cudagraph_sizes(0) == ()


@pytest.mark.parametrize(
    ("name", "memory", "given", "largest"),
    [
        ("h100-sxm", 80, {}, 512),
        ("b200-sxm", 179, {}, 1024),
        ("gb200", 185, {}, 1024),
        ("rtx-pro-6000", 96, {}, 512),
        ("a100-sxm-80gb", 80, {}, 512),
        ("h100-sxm", 80, {"max_num_seqs": 100}, 200),
        ("h100-sxm", 80, {"max_num_seqs": 64, "max_num_batched_tokens": 64}, 64),
        ("h100-sxm", 80, {"max_cudagraph_capture_size": 32}, 32),
        ("h100-sxm", 80, {"cudagraph_capture_sizes": [8, 2]}, 8),
    ],
)
def test_the_largest_graph_follows_sequences_and_device(name, memory, given, largest):
    assert options(given, device(name, memory=memory * GIB)).options.cudagraph_sizes[-1] == largest


def test_eager_engines_and_cpus_have_no_graphs():
    assert options({"enforce_eager": True}).options.cudagraph_sizes == ()
    assert options(on=device("xeon", kind="cpu")).options.cudagraph_sizes == ()


def test_batches_are_padded_to_the_next_graph_and_no_further():
    chosen = options().options

    assert [chosen.padded(n) for n in (1, 3, 5, 8, 249, 257, 512, 513)] == [1, 4, 8, 8, 256, 272, 512, 513]
    assert options({"enforce_eager": True}).options.padded(3) == 3


@pytest.mark.parametrize(
    ("given", "batches"),
    [({}, 2), ({"async_scheduling": False}, 1), ({"pipeline_parallel_size": 4}, 5),
     ({"pipeline_parallel_size": 4, "async_scheduling": False}, 4)],
)  # fmt: skip
def test_batches_in_flight(given, batches):
    assert options(given).options.max_concurrent_batches == batches


@pytest.mark.parametrize(
    ("given", "weights", "cache"),
    [
        ({}, "bf16", "bf16"),
        ({"quantization": "fp8"}, "fp8", "bf16"),
        ({"quantization": "awq"}, "int4", "bf16"),
        ({"kv_cache_dtype": "fp8_e4m3"}, "bf16", "fp8"),
        ({"dtype": "float16"}, "fp16", "fp16"),
        ({"dtype": "float32"}, "fp32", "fp32"),
        ({"kv_cache_dtype": "int8_per_token_head"}, "bf16", "int8"),
    ],
)
def test_formats_of_weights_and_cache(given, weights, cache):
    choice = options(given)

    assert (choice.options.weight_format, choice.options.cache_format) == (weights, cache)
    assert choice.model.weight_format == weights


def test_a_quantised_checkpoint_keeps_its_format_under_another_dtype():
    chosen = options({"dtype": "float16"}, model=load_model("llama-3.1-8b-fp8")).options

    assert (chosen.weight_format, chosen.cache_format) == ("fp8", "fp16")


@pytest.mark.parametrize(
    ("given", "name", "words"),
    [
        ({"max_num_batched_tokens": 100, "max_num_seqs": 200}, "max_num_batched_tokens", "fewer than max_num_seqs 200"),
        ({"max_num_seqs": 9000}, "max_num_seqs", "a step takes 8192 tokens"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 8192}, "max_num_batched_tokens", "is off"),
        ({"max_model_len": 200000}, "max_model_len", "exceeds the context window 131072"),
        ({"max_num_active_seqs": 2000}, "max_num_active_seqs", "above max_num_seqs 1024"),
        ({"max_num_scheduled_tokens": 9000}, "max_num_scheduled_tokens", "above max_num_batched_tokens"),
        ({"quantization": "magic"}, "quantization", "unknown method"),
    ],
)
def test_impossible_options_are_named(given, name, words):
    problems = options(given).problems

    assert [flag for flag, _ in problems] == [name]
    assert words in problems[0][1]


def test_prefix_caching_is_modelled_and_on_by_default_as_in_vllm():
    assert options().options.enable_prefix_caching is True
    assert options({"enable_prefix_caching": False}).options.enable_prefix_caching is False
    for given in ({}, {"enable_prefix_caching": True}, {"enable_prefix_caching": False}):
        assert options(given).warnings == []


def test_the_unit_in_which_prefixes_match_is_warned_about():
    assert options({"prefix_match_unit": "token"}).warnings == [
        "engine.prefix_match_unit is not modelled yet: prefixes are matched block by block"
    ]


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_every_flag_is_modelled_or_warned_about(flag: Flag):
    others = {"int": 7, "float": 0.25, "bool": not flag.default, "text": "other", "json": {"a": 1}, "sizes": [1]}
    value = others[flag.kind]
    if flag.status == "modelled":
        assert flag.warning(value) is None
        assert flag.name in {field.name for field in dataclasses.fields(EngineOptions)} | {
            "dtype", "quantization", "kv_cache_dtype", "performance_mode", "cudagraph_capture_sizes",
            "max_cudagraph_capture_size", "speculative_config", "spec_method", "spec_model", "spec_tokens",
        }  # fmt: skip
    else:
        assert flag.warning(flag.default) is None
        assert flag.warning(value if value != flag.default else True)


# conventions of vLLM 0.33.0: every flag that its configuration classes name, with the default they give
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("tensor_parallel_size", 1), ("pipeline_parallel_size", 1), ("data_parallel_size", 1), ("dp_sync_interval", 16),
        ("all2all_backend", "allgather_reducescatter"), ("enable_expert_parallel", False), ("enable_dbo", False),
        ("dbo_decode_token_threshold", 32), ("dbo_prefill_token_threshold", 512), ("dtype", "auto"),
        ("kv_cache_dtype", "auto"), ("gpu_memory_utilization", 0.92), ("enable_prefix_caching", True),
        ("prefix_caching_hash_algo", "sha256"), ("enable_chunked_prefill", True), ("long_prefill_token_threshold", 0),
        ("long_prefill_token_threshold_adaptive", False), ("scheduling_policy", "fcfs"),
        ("scheduler_reserve_full_isl", True), ("watermark", 0.0), ("prefill_schedule_interval", 1),
        ("stream_interval", 1), ("performance_mode", "balanced"), ("enforce_eager", False), ("cpu_offload_gb", 0),
        ("max_num_queued_reqs", None), ("kv_transfer_config", None), ("speculative_config", None), ("block_size", 16),
        ("data_parallel_backend", "mp"), ("data_parallel_size_local", 1), ("decode_context_parallel_size", 1),
        ("prefill_context_parallel_size", 1), ("enable_eplb", False), ("kv_offloading_backend", "native"),
    ],
)  # fmt: skip
def test_the_defaults_are_those_of_vllm(name, default):
    assert FLAGS[name].default == default


def test_removed_flags_are_taken_with_a_warning():
    warnings = options({"swap_space": 4, "num_scheduler_steps": 8}).warnings

    assert warnings == [
        "engine.swap_space: ignored, vLLM V1 has no such flag any more",
        "engine.num_scheduler_steps: ignored, vLLM V1 has no such flag any more",
    ]


def test_a_budget_that_cannot_be_used_is_warned_about():
    given = {"max_num_seqs": 2, "max_model_len": 100, "max_num_batched_tokens": 300}

    assert "can ever use" in options(given).warnings[0]


def test_every_option_knows_its_origin():
    origins = options({"max_num_seqs": 64, "max_model_len": 4096}).origins

    assert origins["max_num_seqs"] == "user"
    assert origins["max_num_batched_tokens"] == "preset vllm@0.33, by device"
    assert origins["max_num_active_seqs"] == "max_num_seqs"
    assert origins["block_size"] == "preset vllm@0.33"
    assert options().origins["max_model_len"] == "model config"
