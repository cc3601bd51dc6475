"""Reading config.json files, names and aliases of models, and what is refused."""

import json

import pytest

from llmsim.errors import ModelError
from llmsim.model import load_model, model_names
from llmsim.model.weights import parameters

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


def test_there_are_many_records_and_each_says_where_it_is_from():
    assert len(model_names()) >= 24
    for name in model_names():
        shape = load_model(name)
        assert shape.source
        assert shape.name == name
        assert shape.max_model_len >= 512


@pytest.mark.parametrize(
    ("alias", "name", "weight_format"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b", "bf16"),
        ("Llama_3.1_8B", "llama-3.1-8b", "bf16"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b-fp8", "fp8"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b-nvfp4", "nvfp4"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-int4", "int4"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", "bf16"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3", "fp8_block"),
        ("google/gemma-3-27b-it", "gemma-3-27b", "bf16"),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "mxfp4"),
        ("Llama-2-70b-chat-hf", "llama-2-70b", "fp16"),
    ],
)
def test_names_people_use_find_the_record(alias, name, weight_format):
    shape = load_model(alias)
    assert (shape.name, shape.weight_format) == (name, weight_format)


def test_aliases_belong_to_one_record_each():
    seen = {}
    for name in model_names():
        for alias in json.loads((_configs() / f"{name}.json").read_text()).get("_aliases", []):
            assert seen.setdefault(alias.lower(), name) == name
            assert load_model(alias).name == name


def _configs():
    from llmsim import model

    return model._CONFIGS


def test_an_unknown_model_gets_the_closest_names():
    with pytest.raises(
        ModelError, match=r"unknown name 'lama-3\.1-8'\nhint: closest names: llama-3\.1-8b, .*config\.json"
    ):
        load_model("lama-3.1-8")


def test_a_config_is_read_from_a_path_a_folder_and_a_mapping(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for source in (folder, folder / "config.json", str(folder)):
        assert parameters(load_model(source)) == 8_030_261_248
        assert load_model(source).name == "my-model"
    assert parameters(load_model(LLAMA)) == 8_030_261_248


def test_a_hugging_face_id_is_found_in_the_local_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--acme--Tiny-7B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 2}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    shape = load_model("acme/Tiny-7B")
    assert (shape.name, len(shape.layers)) == ("tiny-7b", 2)
    # refs/main decides between snapshots.
    newer = tmp_path / "models--acme--Tiny-7B" / "snapshots" / "def"
    newer.mkdir()
    (newer / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    (tmp_path / "models--acme--Tiny-7B" / "refs").mkdir()
    (tmp_path / "models--acme--Tiny-7B" / "refs" / "main").write_text("abc")
    assert len(load_model("acme/Tiny-7B").layers) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size: missing"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers: not a whole number above 0 \(got 0\)"),
        ({"vocab_size": "many"}, r"vocab_size: not a whole number above 0 \(got 'many'\)"),
        ({"layer_types": ["full_attention"]}, "layer_types: not one entry for each of 32 layers"),
        ({"layer_types": ["linear_attention"] * 32}, "not supported yet"),
        ({"model_type": "zamba2"}, "models with state-space or linear-attention layers are not supported yet"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX*"}, "not one of M \\* - E"),
        ({"model_type": "modernbert"}, "encoder-only models are not supported yet"),
        ({"model_type": "bart"}, "encoder-decoder models are not supported yet"),
        ({"model_type": "newhybrid", "mamba_d_state": 128}, "state-space"),
        ({"model_type": "other", "is_encoder_decoder": True}, "encoder-decoder models are not supported yet"),
        ({"model_type": "newmoe", "num_experts": 8}, "is not guessed at"),
        ({"model_type": None}, "model_type: missing"),
        ({"quantization_config": {"quant_method": "magic"}}, r"quant_method: unknown \(got 'magic'\)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, r"bits: neither 4 nor 8 \(got 3\)"),
        ({"use_sliding_window": "no"}, "use_sliding_window: neither true nor false"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_key(changes, message):
    with pytest.raises(ModelError, match=message):
        load_model({**LLAMA, **changes})


def test_files_that_are_absent_or_broken_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_model(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match="not a mapping"):
        load_model(tmp_path / "config.json")


def test_an_unknown_family_with_the_keys_of_llama_is_read_as_one_and_says_so():
    shape = load_model({**LLAMA, "model_type": "nextgen"})
    assert parameters(shape) == 8_030_261_248
    assert "nextgen" in shape.notes[0]
    assert load_model(LLAMA).notes == ()


def test_multimodal_files_are_read_for_their_language_part():
    outer = {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
                        "intermediate_size": 10240, "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152},
    }  # fmt: skip
    # google/gemma-3-4b-it leaves heads, head_dim and vocabulary to the class's defaults.
    assert parameters(load_model(outer)) == parameters(load_model("gemma-3-4b"))
    assert load_model({"model_type": "llava", "text_config": LLAMA}).architecture == "llama"


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 262144),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 131072),
        ({"rope_scaling": {"type": "longrope"}}, 131072),
        ({}, 131072),
    ],
)
def test_the_longest_context_counts_rotary_scaling_as_vllm_does(changes, longest):
    assert load_model({**LLAMA, **changes}).max_model_len == longest


def test_head_dim_is_not_always_hidden_over_heads_and_kv_heads_default_to_heads():
    shape = load_model({**LLAMA, "num_key_value_heads": None, "head_dim": 256})
    attention = shape.layers[0].attention
    assert (attention.kv_heads, attention.head_dim) == (32, 256)


def test_qwen_mixtures_may_have_dense_layers():
    base = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 16, "num_experts_per_tok": 2,
            "moe_intermediate_size": 768, "decoder_sparse_step": 2, "mlp_only_layers": [3]}  # fmt: skip
    kinds = [layer.feed_forward.experts for layer in load_model(base).layers[:6]]
    assert kinds == [0, 16, 0, 0, 0, 16]


def test_old_and_new_names_of_keys_mean_the_same():
    old = {"model_type": "falcon", "hidden_size": 8192, "n_layer": 60, "n_head": 128, "n_head_kv": 8,
           "new_decoder_architecture": True, "vocab_size": 65024, "dtype": "bfloat16"}  # fmt: skip
    assert parameters(load_model(old)) == parameters(load_model("falcon-40b"))
    assert load_model({**LLAMA, "torch_dtype": None, "dtype": "float16"}).dtype == "fp16"
    assert load_model({**LLAMA, "torch_dtype": "float32"}).dtype == "bf16"
