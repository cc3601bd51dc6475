"""Presets of engines and versions: defaults, memory rules, schedulers, spellings; figures derived by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmsim
from llmsim.errors import ScenarioError
from llmsim.hardware import load_device
from llmsim.machine.clock import Clock
from llmsim.schema import load, resolve, resolved_yaml
from llmsim.schema.other_flags import ALL_FLAGS, NEGATED, NESTED, SPELLINGS, TABLES
from llmsim.schema.presets import PRESETS, preset_of
from llmsim.schema.sglang import chunk_size, graph_sizes, largest_graph, static_fraction
from llmsim.schema.trtllm import graph_sizes as trtllm_sizes
from llmsim.schema.vllm import batch_defaults

# H100 80 GB and Llama-3.1-8B in bf16.
VISIBLE = 0.99 * 80 * 2**30  # what CUDA reports of the card: see llmsim/performance/memory.py
LIBRARIES = 0.25 * 2**30
WEIGHTS = 8_030_261_248 * 2  # parameters as published, 2 bytes each
TOKEN = 2 * 8 * 128 * 2 * 32  # keys and values, 8 heads of 128, 2 bytes, 32 layers


def sampling(sequences: int) -> float:
    """Logits of 128,256 words a sequence: 2 bytes, and twice 4 bytes in fp32."""
    return sequences * 128_256 * 10


def scenario(preset: str, **flags):
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", preset=preset, num_prompts=20, request_rate=5, **flags)


def cache(preset: str, **flags):
    from llmsim.assembly import Parts

    # Any scheduler will do: the cache is the engine's.
    resolved = resolve(scenario(preset, scheduler="static", **flags))
    return Parts(resolved, Clock(), lambda record: None).budget


def test_vllm_since_0_21_counts_graphs_and_takes_92_per_cent():
    # 1, 2, 4, every 8 to 248, every 16 from 256 to 512: 3 + 31 + 17 graphs of 32 layers, 0.3 MiB each
    graphs = 51 * 32 * 0.3 * 2**20
    size = 0.92 * VISIBLE - WEIGHTS - sampling(1024) - LIBRARIES - graphs
    for preset in ("vllm@0.33", "vllm@0.21", "vllm@0.28"):
        found = cache(preset)
        assert found.blocks == size // (16 * TOKEN) == 28_649
        assert found.usable == 28_648  # all but the null block


def test_vllm_before_0_21_takes_90_per_cent_and_lets_graphs_come_out_of_the_rest():
    size = 0.90 * VISIBLE - WEIGHTS - sampling(1024) - LIBRARIES
    for preset in ("vllm@0.8", "vllm@0.14", "vllm@0.20"):
        assert cache(preset).usable == size // (16 * TOKEN) - 1 == 28_081


def test_v0_has_no_null_block_and_samples_256_sequences():
    size = 0.90 * VISIBLE - WEIGHTS - sampling(256) - LIBRARIES
    assert cache("vllm@0.6").usable == cache("vllm@0.7").usable == size // (16 * TOKEN) == 28_552


def test_sglang_takes_a_fraction_of_the_free_memory_for_weights_and_cache():
    # The reserve in MiB: 512 + 1.5 x 8192 + 2 x 256 + 1 / 8 x 1024 = 13,440 of 81,920
    assert static_fraction(load_device("h100-sxm"), chunk=8192, prefill=16384, largest=256, devices=1) == 0.836
    size = 0.836 * (VISIBLE - LIBRARIES) - WEIGHTS
    found = cache("sglang@0.5")
    assert found.usable == found.blocks == size // TOKEN == 418_157
    # An own fraction, and pages of 16 tokens
    size = 0.8 * (VISIBLE - LIBRARIES) - WEIGHTS
    assert cache("sglang@0.5", mem_fraction_static=0.8, page_size=16).usable == size // (16 * TOKEN)


def test_trtllm_takes_a_fraction_of_what_weights_and_activations_leave():
    size = 0.9 * (VISIBLE - WEIGHTS - sampling(2048) - LIBRARIES)
    found = cache("trtllm@1")
    assert found.usable == found.blocks == size // (32 * TOKEN) == 14_180
    halved = cache("trtllm@1", free_gpu_memory_fraction=0.45)
    assert halved.blocks == (size / 2) // (32 * TOKEN)


@pytest.mark.parametrize("preset", ["sglang@0.5", "trtllm@1"])
def test_the_cache_can_be_limited_in_tokens(preset):
    name = {"sglang@0.5": "max_total_tokens", "trtllm@1": "max_cache_tokens"}[preset]
    found = cache(preset, **{name: 64_000})
    assert found.usable * found.block_size == 64_000
    assert found.source == "at most 64000 tokens"
    assert cache(preset, **{name: 10**9}).source.startswith("estimated")


def test_a_fraction_that_leaves_no_room_for_graphs_is_warned_about():
    # 0.02 x 79 GiB = 1.6 GiB, where logits of 2048 sequences alone take 2.4 GiB
    run = llmsim.simulate(scenario("sglang@0.5", mem_fraction_static=0.98, scheduler="static"))
    assert any("might run out of memory" in warning for warning in run.warnings)
    run = llmsim.simulate(scenario("sglang@0.5", mem_fraction_static=0.8, scheduler="static"))
    assert not any("might run out of memory" in warning for warning in run.warnings)


# vllm serve: (max_num_batched_tokens, max_num_seqs)
BATCHES = [
    ("vllm@0.8", "h100-sxm", (8192, 1024)),
    ("vllm@0.8", "a100-sxm-80gb", (8192, 1024)),
    ("vllm@0.9", "a100-sxm-80gb", (2048, 256)),
    ("vllm@0.33", "a100-sxm-80gb", (2048, 256)),
    ("vllm@0.8", "l40s", (2048, 256)),
    ("vllm@0.20", "b200-sxm", (8192, 1024)),
    ("vllm@0.21", "b200-sxm", (16384, 1024)),
    ("vllm@0.6", "h100-sxm", (512, 256)),
    ("vllm@0.7", "b200-sxm", (2048, 256)),
    ("sglang@0.5", "h100-sxm", (8192, 2048)),
    ("sglang@0.5", "l40s", (4096, 2048)),
    ("sglang@0.5", "b200-sxm", (16384, 2048)),
    ("trtllm@1", "h100-sxm", (8192, 2048)),
]


@pytest.mark.parametrize(("preset", "gpu", "limits"), BATCHES)
def test_batch_limits_by_version_and_device(preset, gpu, limits):
    options = resolve(scenario(preset, scheduler="static").with_(gpu=gpu)).options
    assert (options.max_num_batched_tokens, options.max_num_seqs) == limits


def test_the_offline_class_has_larger_limits_since_v1():
    assert batch_defaults(load_device("a100-sxm-80gb"), 1, offline=True, version=(0, 8)) == (16384, 1024)
    assert batch_defaults(load_device("a100-sxm-80gb"), 1, offline=True, version=(0, 9)) == (8192, 256)


def test_v0_chunks_prompts_only_where_contexts_are_long():
    assert resolve(scenario("vllm@0.7", scheduler="static")).options.enable_chunked_prefill
    short = resolve(scenario("vllm@0.7", scheduler="static", max_model_len=32768)).options
    assert not short.enable_chunked_prefill
    assert short.max_num_batched_tokens == 32768
    shorter = resolve(scenario("vllm@0.7", scheduler="static", max_model_len=1024)).options
    assert shorter.max_num_batched_tokens == 2048
    asked = resolve(scenario("vllm@0.6", scheduler="static", max_model_len=4096, enable_chunked_prefill=True)).options
    assert asked.max_num_batched_tokens == 512


@pytest.mark.parametrize(
    ("preset", "largest", "count"),
    [
        ("vllm@0.6", 256, 35),  # 1, 2, 4 and every 8 to 256
        ("vllm@0.8", 512, 67),
        ("vllm@0.10", 512, 67),
        ("vllm@0.12", 512, 51),  # every 16 above 256
        ("vllm@0.33", 512, 51),
        ("sglang@0.5", 256, 36),  # 1, 2, 4, 8, 12 and every 8 from 16 to 256
    ],
)
def test_graphs_by_version(preset, largest, count):
    sizes = resolve(scenario(preset, scheduler="static")).options.cudagraph_sizes
    assert (sizes[-1], len(sizes)) == (largest, count)


def test_few_sequences_have_few_graphs_since_0_10():
    for preset, largest in (("vllm@0.7", 24), ("vllm@0.9", 512), ("vllm@0.10", 40)):
        sizes = resolve(scenario(preset, scheduler="static", max_num_seqs=20)).options.cudagraph_sizes
        assert sizes[-1] == largest


def test_trtllm_pads_to_its_graphs_only_when_told_to():
    assert resolve(scenario("trtllm@1", scheduler="static")).options.cudagraph_sizes == ()
    padded = scenario("trtllm@1", scheduler="static", cuda_graph_config={"enable_padding": True, "max_batch_size": 600})
    sizes = resolve(padded).options.cudagraph_sizes
    assert sizes == trtllm_sizes(600) == (1, 2, 4, *range(8, 129, 8), 256, 512, 600)


def test_sglang_rules_by_device():
    small, big = load_device("l40s"), load_device("b200-sxm")
    assert (chunk_size(small), chunk_size(big)) == (4096, 16384)
    assert (largest_graph(small, 1), largest_graph(small, 4), largest_graph(big, 1)) == (32, 160, 512)
    assert graph_sizes(600)[-4:] == (496, 512, 544, 576)
    # At least 10 GiB on large cards: 81,920 - 10,240 MiB
    assert static_fraction(load_device("h100-sxm"), chunk=2048, prefill=16384, largest=8, devices=1) == 0.875


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("vllm@0.6", "enable_prefix_caching", False), ("vllm@0.8", "enable_prefix_caching", True),
        ("vllm@0.7", "async_scheduling", False), ("vllm@0.13", "async_scheduling", False),
        ("vllm@0.14", "async_scheduling", True), ("vllm@0.20", "scheduler_reserve_full_isl", False),
        ("vllm@0.21", "scheduler_reserve_full_isl", True), ("vllm@0.6", "watermark", 0.01),
        ("vllm@0.8", "watermark", 0.0), ("sglang@0.5", "block_size", 1), ("trtllm@1", "block_size", 32),
        ("sglang@0.5", "async_scheduling", True), ("trtllm@1", "enable_chunked_prefill", False),
        ("trtllm@1", "enable_prefix_caching", True), ("trtllm@1", "max_prompt_tokens", 8192),
        ("sglang@0.5", "max_prompt_tokens", None), ("vllm@0.33", "max_prompt_tokens", None),
    ],
)  # fmt: skip
def test_other_defaults(preset, name, value):
    assert getattr(resolve(scenario(preset, scheduler="static")).options, name) == value


@pytest.mark.parametrize(
    ("preset", "scheduler", "stack"),
    [
        ("vllm@0.6", "vllm_v0", "vllm"), ("vllm@0.7.3", "vllm_v0", "vllm"), ("vllm@0.19", "continuous", "vllm"),
        ("sglang@0.5.23", "sglang", "sglang"), ("trtllm@1.2", "tensorrt_llm", "trtllm"),
    ],
)  # fmt: skip
def test_a_preset_names_the_scheduler_and_the_software_that_is_priced(preset, scheduler, stack):
    resolved = resolve(scenario(preset))
    assert (resolved.scheduler, resolved.performance.stack) == (scheduler, stack)
    assert resolved.origins["scheduler"] == f"preset {preset}"
    assert resolve(scenario(preset, scheduler="static")).scheduler == "static"
    assert [record.status for record in llmsim.simulate(resolved).records] == ["finished"] * 20


def test_flags_that_the_scheduler_reads_become_its_settings():
    asked = scenario("sglang@0.5", schedule_policy="lpm", chunked_prefill_size=4096)
    resolved = resolve(asked)
    assert resolved.scheduler_settings["schedule_policy"] == "lpm"
    assert resolved.scheduler_settings["chunked_prefill_size"] == 4096
    assert resolved.origins["scheduler.schedule_policy"] == "engine.schedule_policy"
    assert resolved.origins["scheduler.max_prefill_tokens"] == "preset sglang@0.5"
    # What the scheduler's own section says wins.
    over = resolve(asked.with_({"scheduler.schedule_policy": "lof"}))
    assert over.scheduler_settings["schedule_policy"] == "lof"
    assert over.origins["scheduler.schedule_policy"] == "user"
    # And another scheduler reads none of them.
    other = resolve(asked.with_(scheduler="continuous"))
    assert "engine.schedule_policy: ignored, scheduler continuous does not read it" in other.warnings
    policy = resolve(scenario("trtllm@1", scheduler_config={"capacity_scheduler_policy": "MAX_UTILIZATION"}))
    assert policy.scheduler_settings["capacity_scheduler_policy"] == "MAX_UTILIZATION"


SGLANG_FILE = """\
model: llama-3.1-8b
cluster: {gpu: h100-sxm}
engine:
  preset: sglang@0.5
  tp-size: 2
  context_length: 8192
  max_running_requests: 64
  page_size: 16
  disable_radix_cache: true
  disable_overlap_schedule: true
  disable_cuda_graph: true
  max_queued_requests: 5
"""
TRTLLM_FILE = """\
model: llama-3.1-8b
cluster: {gpu: h100-sxm}
engine:
  preset: trtllm@1
  max_batch_size: 64
  max_num_tokens: 4096
  max_seq_len: 8192
  disable_overlap_scheduler: true
  kv_cache_config:
    free_gpu_memory_fraction: 0.8
    enable_block_reuse: false
    dtype: fp8
    tokens_per_block: 64
    max_tokens: 640000
  cuda_graph_config: {max_batch_size: 32, enable_padding: true}
"""


def test_sglang_s_own_names_are_taken():
    options = resolve(load(SGLANG_FILE)).options
    assert (options.tensor_parallel_size, options.max_model_len, options.max_num_seqs) == (2, 8192, 64)
    assert (options.block_size, options.enable_prefix_caching, options.async_scheduling) == (16, False, False)
    assert (options.enforce_eager, options.cudagraph_sizes, options.max_num_queued_reqs) == (True, (), 5)


def test_trtllm_s_own_names_are_taken():
    resolved = resolve(load(TRTLLM_FILE))
    options = resolved.options
    assert (options.max_num_seqs, options.max_num_batched_tokens, options.max_model_len) == (64, 4096, 8192)
    assert (options.gpu_memory_utilization, options.memory_rule, options.cache_format) == (0.8, "free", "fp8")
    assert (options.enable_prefix_caching, options.block_size, options.max_cache_tokens) == (False, 64, 640000)
    assert (options.async_scheduling, options.cudagraph_sizes) == (False, (1, 2, 4, 8, 16, 24, 32))


@pytest.mark.parametrize("text", [SGLANG_FILE, TRTLLM_FILE])
def test_a_resolved_file_of_another_engine_runs_again_to_the_same(text):
    first = resolve(load(text))
    again = resolve(load(resolved_yaml(first)))
    assert again.options == first.options
    assert again.scheduler_settings == first.scheduler_settings
    assert again.engine_values == first.engine_values


def test_options_over_a_file_replace_whatever_name_it_used():
    over = load(TRTLLM_FILE).with_({"engine.kv_cache_config.free_gpu_memory_fraction": 0.5, "engine.max_batch_size": 8})
    options = resolve(over).options
    assert (options.gpu_memory_utilization, options.block_size, options.max_num_seqs) == (0.5, 64, 8)
    assert resolve(load(SGLANG_FILE).with_(tp_size=4)).plan.tensor == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset: vllm@0.34", "engine.preset: unknown preset (got 'vllm@0.34')\nhint: vllm@0.6 to vllm@0.33 are known"),
        ("preset: vllm@0.5.5", "engine.preset: unknown preset (got 'vllm@0.5.5')\nhint: vllm@0.6 to"),
        ("preset: vllm", "engine.preset: unknown preset (got 'vllm')\nhint: "),
        ("preset: vlm@0.33", "engine.preset: unknown preset (got 'vlm@0.33')\nhint: did you mean 'vllm@0.33'? known: "),
        ("preset: sglang@0.4", "engine.preset: unknown preset (got 'sglang@0.4')\nhint: did you mean 'sglang@0.5'?"),
        ("preset: sglang@0.5\n  watermark: 0.1", "s.yaml:5:3: engine.watermark: sglang@0.5 has no such flag\nhint: "),
        ("mem_fraction_static: 0.8", "engine.mem_fraction_static: vllm@0.33 has no such flag\nhint: it is one of sg"),
        ("tp_size: 4", "engine.tp_size: unknown key"),
        ("preset: sglang@0.5\n  schedule_policy: fifo", "engine.schedule_policy: "),
        ("preset: sglang@0.5\n  chunked_prefill_size: 0", "engine.chunked_prefill_size: must be at least 1, or -1"),
        ("preset: sglang@0.5\n  tp: 2\n  tp_size: 2", "engine.tp_size: unknown key"),
        ("preset: trtllm@1\n  kv_cache_config: {reuse: 1}", "engine.kv_cache_config: unknown key 'reuse' (known: "),
        ("preset: trtllm@1\n  kv_cache_config: {dtype: fp7}", "s.yaml:5:21: engine.kv_cache_dtype: "),
    ],
)  # fmt: skip
def test_wrong_presets_and_flags_are_told_with_their_place(tmp_path, text, said):
    path = tmp_path / "s.yaml"
    path.write_text(f"model: llama-3.1-8b\ncluster: {{gpu: h100-sxm}}\nengine:\n  {text}\n")
    with pytest.raises(ScenarioError) as raised:
        resolve(load(path))
    assert said in str(raised.value)


def test_what_a_preset_s_flags_do_not_model_is_warned_about():
    asked = scenario(
        "sglang@0.5", scheduler="static", enable_dp_attention=True, log_level="info", disaggregation_mode="prefill"
    )
    warnings = resolve(asked).warnings
    assert "engine.enable_dp_attention: changes nothing, llama-3.1-8b has no experts" in warnings
    assert "engine.log_level: ignored, it does not change simulated times" in warnings
    assert any(warning.startswith("engine.disaggregation_mode is not modelled") for warning in warnings)
    asked = scenario("trtllm@1", scheduler="static", kv_cache_config={"host_cache_size": 10, "dtype": "fp8"})
    assert any(warning.startswith("engine.kv_cache_config is not modelled") for warning in resolve(asked).warnings)
    for preset in PRESETS:
        assert resolve(scenario(preset, scheduler="static")).warnings == ()


def test_a_prompt_that_trtllm_cannot_cut_is_rejected():
    asked = scenario("trtllm@1", max_num_batched_tokens=2048, input_len=3000, scheduler="static")
    run = llmsim.simulate(asked)
    assert {record.status for record in run.records} == {"rejected"}
    assert run.records[0].reason == "prompt of 3000 tokens is more than the 2048 of a step, and is not cut"
    # The other engines cut it, and so does this one when it may.
    cut = llmsim.simulate(asked.with_({"engine.enable_chunked_prefill": True}))
    assert {record.status for record in cut.records} == {"finished"}


def test_every_preset_has_a_table_and_every_spelling_a_flag():
    for name in PRESETS:
        flags = preset_of(name).flags
        assert set(flags) <= set(ALL_FLAGS)
        assert all(flags[flag].name == flag for flag in flags)
    for engine, table in TABLES.items():
        named = [*SPELLINGS[engine].values(), *NEGATED[engine].values()]
        named += [flag for within in NESTED[engine].values() for flag in within.values()]
        assert set(named) <= set(table)
        assert not set(SPELLINGS[engine]) & set(table)
        # One name, one kind: a file is checked before its preset is looked at.
        assert all(flag.kind == ALL_FLAGS[name].kind for name, flag in table.items())


def test_presets_can_be_swept():
    table = llmsim.sweep(scenario("vllm@0.33", scheduler="static"), {"preset": ["vllm@0.8", "sglang@0.5", "trtllm@1"]})
    assert list(table["status"]) == ["ok"] * 3


def test_the_page_names_every_preset_and_every_flag_of_the_other_engines():
    page = (Path(__file__).parents[1] / "docs" / "scenario.md").read_text()
    section = page.split("## Presets of engines")[1].split("## Engine flags")[0]
    for name in PRESETS:
        scheduler = resolve(scenario(name)).scheduler
        assert f"| `{name}` | `{scheduler}` |" in section
    for engine in ("sglang", "trtllm"):
        own = {name for name, flag in TABLES[engine].items() if flag.status == "modelled"} - set(TABLES["vllm"])
        inner = [key for within in NESTED[engine].values() for key in within]
        for name in (*own, *NEGATED[engine], *NESTED[engine], *inner):
            assert f"`{name}`" in section, name
    for preset in ("vllm@0.33", "vllm@0.20", "sglang@0.5", "trtllm@1"):
        found = cache(preset)
        assert f"{found.usable * found.block_size:,}" in section
