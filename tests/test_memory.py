import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.errors import InfeasibleError
from llmsim.hardware import cluster_of, default_node, load_device
from llmsim.model import load_model
from llmsim.model.weights import cache_bytes_per_token
from llmsim.parallel import Plan, place
from llmsim.performance.memory import activation_bytes, kv_blocks


def budget(model, device, plan=None, **options):
    defaults = {
        "block_size": 16,
        "gpu_memory_utilization": 0.92,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 1024,
    }
    return kv_blocks(load_model(model), plan or Plan(), (), load_device(device), **{**defaults, **options})


def test_an_8b_model_on_an_80_gb_card_has_the_blocks_that_vllm_reports():
    # vLLM on H100 80GB, Llama-3.1-8B in bf16 at 0.9: 27 to 28 thousand blocks of 16 tokens.
    found = budget("llama-3.1-8b", "h100-sxm", gpu_memory_utilization=0.9)
    assert 27_000 < found.blocks < 28_500
    assert found.bytes_per_block == 2 * 2**20
    assert found.usable == found.blocks - 1
    assert found.tokens == found.usable * 16


def test_the_source_says_where_the_count_came_from():
    found = budget("llama-3.1-8b", "h100-sxm")
    assert found.source.startswith("estimated: 0.92 x 79.2 GiB - weights 15.0 - activations ")
    assert budget("llama-3.1-8b", "h100-sxm", num_gpu_blocks_override=2588).source == "num_gpu_blocks_override"
    given = budget("llama-3.1-8b", "h100-sxm", kv_cache_memory_bytes=4 * 2**30)
    assert given.source == "kv_cache_memory_bytes: 4.0 GiB a device"


def test_the_parts_add_up_to_what_the_engine_may_take():
    found = budget("llama-3.1-70b", "h100-sxm", Plan(4))
    parts = found.weight_bytes + found.activation_bytes + found.library_bytes + found.graph_bytes + found.cache_bytes
    assert parts == pytest.approx(0.92 * 0.99 * 80 * 2**30, rel=1e-9)
    assert found.blocks == found.cache_bytes // found.bytes_per_block


def test_overrides_count():
    assert budget("llama-3.1-8b", "h100-sxm", num_gpu_blocks_override=2588).usable == 2587
    assert budget("llama-3.1-8b", "h100-sxm", kv_cache_memory_bytes=4 * 2**30).blocks == 2048
    # An override holds even where nothing would fit: it is the real server's word.
    assert budget("llama-3.1-70b", "h100-sxm", num_gpu_blocks_override=100).blocks == 100


def test_a_smaller_cache_format_gives_more_blocks_and_smaller_weights_do_too():
    plain = budget("llama-3.1-8b", "h100-sxm")
    assert budget("llama-3.1-8b", "h100-sxm", cache_format="fp8").blocks in (2 * plain.blocks, 2 * plain.blocks + 1)
    lighter = budget("llama-3.1-8b", "h100-sxm", weight_format="fp8")
    assert lighter.blocks - plain.blocks == pytest.approx(6.98e9 / plain.bytes_per_block, abs=2)


def test_tensor_parallel_blocks_are_smaller_and_a_latent_cache_is_not_divided():
    assert budget("llama-3.1-70b", "h100-sxm", Plan(4)).bytes_per_block == 16 * 80 * 1024
    assert budget("llama-3.1-70b", "a100-sxm", Plan(8)).bytes_per_block == 16 * 40 * 1024
    assert budget("deepseek-v3", "h200-sxm", Plan(8)).bytes_per_block == 16 * 61 * 576 * 2


def test_the_stage_with_the_fewest_blocks_decides():
    # 61 layers over two stages: 31 on the first, and the output matrix on the second.
    model = load_model("deepseek-v3")
    stages = place(model, Plan(8, 2), cluster_of(default_node("h200-sxm"), 2))[0]
    found = kv_blocks(
        model, Plan(8, 2), stages, load_device("h200-sxm"), block_size=16, gpu_memory_utilization=0.92,
        max_num_batched_tokens=8192, max_num_seqs=1024,
    )  # fmt: skip
    assert found.stage == 0
    assert found.bytes_per_block == 16 * 31 * 576 * 2
    assert found == budget("deepseek-v3", "h200-sxm", Plan(8, 2))


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        ("llama-3.1-8b", ((None, 1),)),
        ("mistral-7b-v0.1", ((4096, 1),)),
        ("gemma-3-27b", ((None, 1), (1024, 6))),  # 10 full layers, 52 sliding: 5 groups of 10 and one of 2
        ("gemma-3-1b", ((None, 1), (512, 6))),  # 4 and 22
        ("gemma-2-9b", ((None, 1), (4096, 1))),  # 21 and 21
        ("gpt-oss-20b", ((None, 1), (128, 1))),
        ("llama-4-scout", ((None, 1), (8192, 3))),  # 12 and 36
    ],
)
def test_kinds_of_layers_share_one_pool_in_groups_of_equal_size(model, groups):
    found = budget(model, "b200-sxm", Plan(2) if model == "llama-4-scout" else Plan())
    assert found.groups == groups


def test_a_span_costs_its_exact_bytes_where_the_layers_divide_evenly():
    for model in ("gpt-oss-20b", "gemma-2-9b"):
        found = budget(model, "h100-sxm")
        span = sum(copies for _, copies in found.groups) * found.bytes_per_block
        assert span == 16 * cache_bytes_per_token(load_model(model))


def test_stages_of_a_pipeline_share_the_groups_of_the_whole_model():
    whole, cut = budget("gemma-3-27b", "h100-sxm"), budget("gemma-3-27b", "h100-sxm", Plan(1, 2))
    assert whole.groups == cut.groups
    assert cut.bytes_per_block == whole.bytes_per_block / 2


def test_a_model_that_does_not_fit_is_an_error_with_figures_and_a_way_out():
    with pytest.raises(InfeasibleError) as error:
        budget("llama-3.1-70b", "h100-sxm")
    assert "llama-3.1-70b on h100-sxm with Plan(tensor=1, pipeline=1)" in str(error.value)
    assert "weights 131.4" in str(error.value)
    assert "larger tensor_parallel_size" in str(error.value).splitlines()[1]
    with pytest.raises(InfeasibleError, match="leaves no room"):
        budget("llama-3.1-8b", "h100-sxm", kv_cache_memory_bytes=2**20)


def test_graphs_take_memory_on_gpus_only_and_only_when_captured():
    captured = budget("llama-3.1-8b", "h100-sxm")
    assert budget("llama-3.1-8b", "h100-sxm", cuda_graphs=False).blocks > captured.blocks
    assert budget("llama-3.1-8b", "h100-sxm", cuda_graphs=[1, 2, 4]).graph_bytes < captured.graph_bytes
    assert budget("llama-3.1-8b", "xeon-8592").graph_bytes == 0
    assert budget("llama-3.1-8b", "tpu-v6e").graph_bytes == 0


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(256, 32768), sequences=st.integers(1, 2048), tensor=st.sampled_from([1, 2, 4, 8]))
def test_activations_grow_with_tokens_and_sequences_and_shrink_with_ranks(tokens, sequences, tensor):
    model = load_model("llama-3.1-70b")

    def peak(**changes):
        options = {"tensor": tensor, "tokens": tokens, "sequences": sequences, **changes}
        return activation_bytes(model, 0, 80, **options)

    assert peak(tokens=2 * tokens) >= peak()
    assert peak(sequences=2 * sequences) >= peak()
    assert peak(tensor=2 * tensor) <= peak()


def test_only_the_last_stage_samples():
    model = load_model("llama-3.1-8b")
    first = activation_bytes(model, 0, 16, tensor=1, tokens=256, sequences=1024)
    last = activation_bytes(model, 16, 32, tensor=1, tokens=256, sequences=1024)
    assert last == 1024 * 128256 * 10 > first
