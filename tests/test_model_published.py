"""Parameters of further records of the catalogue against published figures."""

import pytest

from llmsim.model import load_model
from llmsim.model.weights import active_parameters, parameters

# Parameters in billions as counted from the published checkpoints (model cards and safetensors headers).
PUBLISHED = {
    "codellama-7b": 6.7385,
    "codellama-13b": 13.016,
    "codellama-70b": 68.977,
    "tinyllama-1.1b": 1.1,
    "smollm-135m": 0.13452,
    "smollm-360m": 0.36182,
    "smollm-1.7b": 1.7114,
    "solar-10.7b": 10.732,
    "yi-6b": 6.061,
    "yi-9b": 8.829,
    "deepseek-coder-1.3b": 1.3465,
    "deepseek-coder-6.7b": 6.7405,
    "deepseek-coder-33b": 33.343,
    "deepseek-llm-7b": 6.91,
    "deepseek-llm-67b": 67.425,
    "baichuan-7b": 7.0006,
    "baichuan-13b": 13.265,
    "baichuan2-7b": 7.506,
    "baichuan2-13b": 13.897,
    "internlm-7b": 7.322,
    "internlm-20b": 20.089,
    "internlm2-7b": 7.7377,
    "internlm2-20b": 19.861,
    "falcon3-7b": 7.4557,
    "open-llama-3b": 3.4265,
    "exaone-3.5-7.8b": 7.818,
    "exaone-3.5-32b": 32.003,
    "granite-3-8b": 8.171,
    "granite-3-2b": 2.534,
    "mistral-large-2": 122.61,
    "ministral-8b": 8.0198,
    "codestral-22b": 22.247,
    "qwen1.5-0.5b": 0.46399,
    "qwen1.5-1.8b": 1.8368,
    "qwen1.5-4b": 3.9504,
    "qwen1.5-14b": 14.167,
    "qwen1.5-32b": 32.512,
    "qwen1.5-72b": 72.288,
    "qwen1.5-110b": 111.21,
    "qwen2-57b-a14b": 57.409,
    "qwen3-coder-480b-a35b": 480.15,
    "phi-2": 2.7797,
    "phi-1.5": 1.4183,
    "phi-3-medium": 13.96,
    "phi-4-mini": 3.836,
    "phi-3.5-moe": 41.873,
    "falcon-180b": 179.52,
    "pythia-70m": 0.070427,
    "pythia-160m": 0.16232,
    "pythia-410m": 0.40533,
    "pythia-1b": 1.0118,
    "pythia-1.4b": 1.4146,
    "pythia-2.8b": 2.7752,
    "pythia-6.9b": 6.8572,
    "pythia-12b": 11.846,
    "bloom-560m": 0.55921,
    "bloom-1b1": 1.0653,
    "bloom-1b7": 1.7224,
    "bloom-3b": 3.0026,
    "roberta-large": 0.35536,
    "xlm-roberta-base": 0.27804,
    "xlm-roberta-large": 0.55989,
    "t5-11b": 11.307,
    "flan-t5-small": 0.076961,
    "flan-t5-base": 0.24758,
    "flan-t5-large": 0.78315,
    "flan-t5-xl": 2.8498,
    "flan-t5-xxl": 11.135,
    "chatglm2-6b": 6.2436,
    "glm-4-9b": 9.4,
    "olmoe-1b-7b": 6.919,
    "olmo-7b": 6.888,
    "deepseek-moe-16b": 16.376,
    "seed-oss-36b": 36.151,
    "falcon-mamba-7b": 7.2727,
    "mpt-7b": 6.6493,
    "mpt-30b": 29.957,
    "command-r-35b": 34.981,
    "command-r-32b": 32.296,
    "command-r-plus": 103.81,
    "aya-23-8b": 8.028,
    "stablelm-3b": 2.7954,
    "stablelm-2-1.6b": 1.6445,
    "starcoder2-7b": 7.174,
    "starcoder2-3b": 3.0304,
}

# Figures published with fewer digits, in papers or in the names of the models.
ROUNDED = {
    "gpt-3-125m": 0.125,
    "gpt-3-760m": 0.76,
    "gpt-3-2.7b": 2.65,
    "gpt-3-13b": 12.85,
    "gpt-89b": 88,
    "palm-62b": 62.5,
    "palm-8b": 8.63,
    "chatglm-6b": 6.17,
    "dbrx": 132,
    "grok-1": 314,
    "glm-4.5": 353,
    "hunyuan-a13b": 80.4,
    "ernie-4.5-21b-a3b": 21.8,
    "minimax-m2": 228.7,
    "starcoder-15b": 15.5,
    "granite-20b-code": 20.1,
    "nemotron-4-15b": 15.6,
    "nemotron-4-340b": 341,
}


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_parameters_agree_with_published_counts(name, billions):
    assert parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=1e-3)


@pytest.mark.parametrize(("name", "billions"), ROUNDED.items())
def test_parameters_agree_with_rounded_published_counts(name, billions):
    assert parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # What the names and model cards of mixtures give as active parameters.
        ("qwen2-57b-a14b", 14.2), ("qwen3-coder-480b-a35b", 35.4), ("phi-3.5-moe", 6.6), ("dbrx", 36.5),
        ("hunyuan-a13b", 13.0), ("glm-4.5", 33.0), ("olmoe-1b-7b", 1.3), ("deepseek-moe-16b", 2.8),
    ],
)  # fmt: skip
def test_a_token_visits_about_as_many_as_published(name, billions):
    assert active_parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=0.05)


def test_one_key_value_head_serves_all_of_starcoder_and_two_all_of_chatglm():
    assert {layer.attention.kv_heads for layer in load_model("starcoder-15b").layers} == {1}
    assert {layer.attention.kv_heads for layer in load_model("chatglm2-6b").layers} == {2}


def test_layers_of_command_r_are_parallel():
    assert all(layer.parallel for layer in load_model("command-r-plus").layers)
