"""Pruned and distilled models: their sizes against counts by hand and published ones, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import llmsim
from llmsim.errors import InfeasibleError, InputError, ScenarioError
from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.model.shape import Attention
from llmsim.model.transform import Transform, transformed
from llmsim.model.weights import cache_bytes_per_token, parameters, weight_bytes
from llmsim.parallel import Plan, Stage, check
from llmsim.performance.stage_prices import StagePrices
from llmsim.schema import resolve, resolved_yaml

# Llama-3.1-8B: hidden 4096, 32 layers, 32 heads and 8 KV heads of 128, feed-forward 14336, vocabulary 128256, not tied.
# A layer: q and o 2 x 4096 x 4096 = 33,554,432; k and v 2 x 4096 x 1024 = 8,388,608; 3 x 4096 x 14336 = 176,160,768;
# two norms 8,192: 218,112,000 in all.  Outside: 2 x 128256 x 4096 + 4096 = 1,050,677,248.
LAYER, NORMS, OUTSIDE = 218_112_000, 8_192, 1_050_677_248


def pruned(name: str, share: float, kind: str = "width", **options):
    return transformed(load_model(name), Transform(prune=share, prune_kind=kind), **options)


def distilled(name: str, **sizes):
    return transformed(load_model(name), Transform(**sizes))


def test_the_model_before():
    assert parameters(load_model("llama-3.1-8b")) == 32 * LAYER + OUTSIDE == 8_030_261_248


def test_half_of_the_width_halves_the_matrices_of_each_layer_and_nothing_else():
    half = pruned("llama-3.1-8b", 0.5)
    # 16 heads and 4 KV heads: 41,943,040 / 2; feed-forward 7168: 176,160,768 / 2.
    assert parameters(half) == 32 * (20_971_520 + 88_080_384 + NORMS) + OUTSIDE == 4_540_600_320
    assert (half.layers[0].attention.heads, half.layers[0].attention.kv_heads) == (16, 4)
    assert (half.hidden_size, half.vocab_size, len(half.layers)) == (4096, 128256, 32)
    assert cache_bytes_per_token(half) == cache_bytes_per_token(load_model("llama-3.1-8b")) / 2 == 64 * 1024


def test_half_of_the_layers_is_the_depth_pruned_minitron():
    half = pruned("llama-3.1-8b", 0.5, "layers")
    # Llama-3.1-Minitron-4B-Depth (NVIDIA): layers 16 to 31 of 32 dropped, "4.5 B" parameters.
    assert parameters(half) == 16 * LAYER + OUTSIDE == 4_540_469_248
    assert cache_bytes_per_token(half) == 64 * 1024


def test_half_of_the_heads_leaves_the_feed_forward():
    assert parameters(pruned("llama-3.1-8b", 0.5, "heads")) == 32 * (LAYER - 20_971_520) + OUTSIDE == 7_359_172_608


def test_unstructured_zeros_are_stored_and_multiplied_like_other_numbers():
    model, holes = load_model("llama-3.1-8b"), pruned("llama-3.1-8b", 0.5, "unstructured")
    assert weight_bytes(holes) == weight_bytes(model)
    assert step_s(holes) == step_s(model)
    assert "no kernel skips the zeros" in holes.notes[-1]
    assert "quality is not modelled" in holes.notes[-1]


def step_s(model, device="h100-sxm", tokens=1.0) -> float:
    stage = Stage(0, 0, len(model.layers), ("n0.d0",), None, None)
    return float(StagePrices(model, Plan(), stage, load_device(device)).linear(np.array([tokens])).sum())


def test_two_of_four_zeros_take_nine_sixteenths_and_need_the_device_to_say_so():
    model = load_model("llama-3.1-8b")
    sparse = pruned("llama-3.1-8b", 0.5, "2:4", sparsity=load_device("h100-sxm").sparsity)
    layers = 32 * (LAYER - NORMS)
    assert weight_bytes(model) - weight_bytes(sparse) == pytest.approx(layers * 2 * 7 / 16, rel=1e-12)
    assert 0.5 < step_s(sparse) / step_s(model) < 0.7  # memory-bound: bytes of weights decide
    assert 0.5 < step_s(sparse, tokens=8192.0) / step_s(model, tokens=8192.0) < 0.7  # compute-bound: twice the peak
    assert load_device("v100-sxm-32gb").sparsity is None
    with pytest.raises(InfeasibleError, match="2:4 needs matrix units that skip zeros"):
        pruned("llama-3.1-8b", 0.5, "2:4", sparsity=None)
    with pytest.raises(InputError, match="2:4 is half of the weights"):
        pruned("llama-3.1-8b", 0.3, "2:4", sparsity="2:4")


def test_distilled_models_have_the_published_sizes():
    # DistilGPT-2: 6 of GPT-2's 12 layers, 82 M parameters on its model card; a layer of GPT-2 has 7,087,872.
    assert parameters(load_model("gpt2")) - parameters(distilled("gpt2", layers=6)) == 6 * 7_087_872
    assert parameters(distilled("gpt2", layers=6)) == pytest.approx(82e6, rel=0.005)
    # Llama-3.1-Minitron-4B-Width: hidden 3072, feed-forward 9216, heads as before; 4.51 B on its model card.
    # A layer: 2 x 3072 x 128 x 40 + 3 x 3072 x 9216 + 2 x 3072; outside: 2 x 128256 x 3072 + 3072.
    width = distilled("llama-3.1-8b", hidden=3072, heads=32, kv_heads=8, intermediate=9216)
    assert parameters(width) == 32 * (31_457_280 + 84_934_656 + 6_144) + 788_007_936 == 4_512_746_496


def test_a_smaller_hidden_size_takes_heads_and_widths_with_it():
    student = distilled("llama-3.1-8b", hidden=2048)
    layer = student.layers[0]
    assert (layer.attention.heads, layer.attention.kv_heads, layer.attention.head_dim) == (16, 8, 128)
    assert layer.feed_forward.intermediate_size == 7168
    assert layer.small_parameters == 2 * 2048


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3", "gpt2"])
@pytest.mark.parametrize("kind", ["width", "layers", "heads"])
def test_more_is_never_left_than_before_and_something_always_is(name, kind, share):
    before, after = load_model(name), pruned(name, share, kind)
    # A tenth of 4 KV heads is none.
    assert 0 < parameters(after) <= parameters(before)
    assert parameters(after) < parameters(before) or (kind, share) == ("heads", 0.1)
    for layer in after.layers:
        attention = layer.attention
        assert attention.heads >= attention.kv_heads >= 1
        assert attention.heads % attention.kv_heads == 0
        assert layer.feed_forward.intermediate_size >= 1
    check(after, Plan(1))


def test_windows_keep_their_pattern_when_layers_go():
    model = load_model("gpt-oss-20b")
    half = pruned("gpt-oss-20b", 0.5, "layers")
    windows = [layer.attention.window for layer in half.layers]
    assert windows[:-1] == [layer.attention.window for layer in model.layers][: len(windows) - 1]
    assert windows[-1] == model.layers[-1].attention.window


def test_one_kv_head_keeps_it_and_loses_query_heads():
    model = load_model("llama-3.1-8b")
    layer = replace(model.layers[0], attention=Attention(32, 1, 128))
    after = transformed(replace(model, layers=(layer,) * 32), Transform(prune=0.5))
    assert (after.layers[0].attention.heads, after.layers[0].attention.kv_heads) == (16, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 33}, "layers: not within 1 to 32"),
        ({"hidden": 8192}, "hidden: not within 1 to 4096"),
        ({"heads": 64}, "heads: more than the model's 32"),
        ({"heads": 30, "kv_heads": 4}, "kv_heads: does not divide the 30 heads"),
        ({"intermediate": 20000}, "intermediate: more than the model's 14336"),
    ],
)
def test_a_student_is_not_larger_than_its_teacher(sizes, message):
    with pytest.raises(InputError, match=message):
        distilled("llama-3.1-8b", **sizes)


# -- in a scenario ------------------------------------------------------------------------------------


def scenario(**values):
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=4, num_prompts=20, **values)


def test_a_scenario_serves_the_transformed_model_and_says_what_that_leaves_out():
    resolved = resolve(scenario(prune=0.5))
    assert resolved.model.name == "llama-3.1-8b-pruned-width-50"
    assert any("quality is not modelled" in warning for warning in resolved.warnings)
    again = resolve(llmsim.load(resolved_yaml(resolved)))
    assert again.model == resolved.model


def test_sizes_of_a_student_may_be_words_or_a_mapping():
    words = resolve(scenario(distill_to="layers=12,hidden=2048"))
    mapping = resolve(scenario().with_({"model_transform.distill_to": {"layers": 12, "hidden": 2048}}))
    assert words.model == mapping.model
    assert len(words.model.layers) == 12


def test_a_pruned_model_must_still_be_cut_evenly():
    # 5 of 8 KV heads are left, with 20 query heads: TP 8 divides neither.
    with pytest.raises(InfeasibleError, match="8 does not divide 20 heads"):
        resolve(scenario(prune=0.4, tensor_parallel_size=8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prune": 1.0}, "model_transform.prune"),
        ({"prune": 0.5, "prune_kind": "random"}, "model_transform.prune_kind"),
        ({"distill_to": "depth=3"}, "distill_to: not SIZE=N with SIZE one of layers"),
        ({"distill_to": {"layers": 99}}, "not within 1 to 32"),
        ({"prune": 0.5, "prune_kind": "2:4", "quantization": "fp8"}, "engine.quantization"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ScenarioError, match=message):
        resolve(scenario(**values))


def test_a_sweep_compares_shares():
    table = llmsim.sweep(scenario(), {"prune": [0, 0.25, 0.5]})
    assert list(table["status"]) == ["ok"] * 3
    assert table["mean_tpot_ms"].is_monotonic_decreasing
