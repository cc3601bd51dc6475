"""What quantization_config says of a checkpoint."""

import json

import pytest

from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.model.weights import in_format
from llmsim.performance.forward import forward_pass, one_stage

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("said", "weights", "attention", "cache"),
    [
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8", None, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", None, None),
        ({"quant_method": "awq", "bits": 4}, "int4", None, None),
        ({"quant_method": "gptq", "bits": 8}, "int8", None, None),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", None, None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "nvfp4", None, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", None, None),
        (
            {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
             "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
             "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8", None, "fp8",
        ),
        (
            {"quant_method": "compressed-tensors", "ignore": ["re:.*self_attn.*"],
             "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}},
            "int4", "bf16", None,
        ),
        (None, "bf16", None, None),
    ],
)  # fmt: skip
def test_quantization_config_sets_the_formats(said, weights, attention, cache):
    shape = load_model({**LLAMA, "quantization_config": said})
    assert (shape.weight_format, shape.attention_format, shape.cache_format) == (weights, attention, cache)


def test_modelopt_keeps_its_quantisation_in_a_file_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}})
    )
    shape = load_model(tmp_path)
    assert (shape.weight_format, shape.cache_format) == ("nvfp4", "fp8")


@pytest.mark.parametrize(
    ("said", "weights", "static"),
    [
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8", True),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", False),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", True),
        ({"quant_method": "awq", "bits": 4}, "int4", False),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "weights": {"num_bits": 8, "type": "float"},
                "input_activations": {"num_bits": 8, "type": "float", "dynamic": False}}}}, "fp8", True,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "weights": {"num_bits": 8, "type": "int"},
                "input_activations": {"num_bits": 8, "type": "int", "dynamic": True}}}}, "w8a8", False,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "weights": {"num_bits": 8, "type": "int"}, "input_activations": None}}}, "int8", False,
        ),
    ],
)  # fmt: skip
def test_scales_of_activations_are_static_where_the_checkpoint_has_them(said, weights, static):
    shape = load_model({**LLAMA, "quantization_config": said})
    assert (shape.weight_format, shape.static_scales) == (weights, static)


def test_static_scales_spare_the_kernels_that_look_for_them_but_not_on_vllm():
    def label(scheme, stack):
        said = {"quant_method": "fp8", "activation_scheme": scheme}
        model = load_model({**LLAMA, "quantization_config": said})
        return one_stage(model, load_device("h100"), stack=stack).label

    assert "static scales" in label("static", "sglang")
    assert "static scales" not in label("dynamic", "sglang")
    assert "static scales" in label("dynamic", "trtllm")
    assert "static scales" not in label("static", "vllm")


def test_eight_bit_products_run_at_the_peak_of_int8_where_activations_are_int8_too():
    device = load_device("a100-sxm-80gb")
    both, weights_only = (one_stage(in_format(load_model(LLAMA), name), device) for name in ("w8a8", "int8"))
    assert forward_pass(both, [8192]).total_s < 0.8 * forward_pass(weights_only, [8192]).total_s
    assert any("w8a8" in warning for warning in both.warnings)


def test_formats_of_fp32_differ_in_the_units_that_multiply():
    device = load_device("a100-sxm-80gb")
    wide, fast = (one_stage(in_format(load_model(LLAMA), name), device) for name in ("fp32", "tf32"))
    # 19.5 against 156 TFLOP/s.
    assert forward_pass(wide, [8192]).total_s > 4 * forward_pass(fast, [8192]).total_s
