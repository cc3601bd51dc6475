"""Reading a Hugging Face ``config.json`` key by key: aliases of keys, defaults, errors that name the key."""

from collections.abc import Mapping
from typing import Any

from llmsim.errors import ModelError

# Where multimodal models keep the configuration of their language part.
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
# What vLLM looks for when a key is spelled in another way (CONFIG_FIELD_ALIASES, and GPT-2's names).
_ALIASES = {
    "hidden_size": ("n_embd", "d_model", "n_embed"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"),
    "intermediate_size": ("ffn_hidden_size", "ffn_dim", "n_inner"),
    "max_position_embeddings": (
        "n_positions", "n_ctx", "seq_length", "max_sequence_length", "max_seq_len", "model_max_length",
    ),
    "experts": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "experts_per_token": (
        "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "top_k",
    ),
}  # fmt: skip


class Config:
    """The language part of a config.json; ``where`` says in messages which one."""

    def __init__(self, where: str, content: Mapping[str, Any]) -> None:
        part = next((content[key] for key in _TEXT_PARTS if isinstance(content.get(key), Mapping)), None)
        self.where = where
        self.outer = content
        self.content: Mapping[str, Any] = content if part is None else part
        # The outer file wins where both speak of one thing that concerns the whole checkpoint.
        self.whole: Mapping[str, Any] = content if part is None else {**part, **content}

    @property
    def model_type(self) -> str:
        """The family, from ``model_type`` or else from the first of ``architectures``."""
        for content in (self.content, self.outer):
            value = content.get("model_type")
            if isinstance(value, str) and value:
                return value
        architectures = self.outer.get("architectures")
        if isinstance(architectures, list) and architectures:
            return str(architectures[0])
        raise ModelError(f"{self.where}: model_type: missing\nhint: is this the config.json of a language model?")

    def raw(self, key: str) -> Any:
        """Return the value of ``key`` under any of its names, None when there is none."""
        for name in (key, *_ALIASES.get(key, ())):
            value = self.content.get(name)
            if value is not None:
                return value
        return None

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number above zero."""
        value = self.raw(key)
        if value is None:
            if default is None:
                raise ModelError(f"{self.where}: {key}: missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ModelError(f"{self.where}: {key}: not a whole number above 0 (got {value!r})")
        return value

    def amount(self, key: str, default: int = 0) -> int:
        """Return a whole number that may be zero."""
        value = self.raw(key)
        if value is None or value == 0:
            return default if value is None else 0
        return self.count(key)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelError(f"{self.where}: {key}: neither true nor false (got {value!r})")
        return value

    def window(self, default: int | None = None) -> int | None:
        """Return ``sliding_window``: None when it is missing, null or zero and there is no default."""
        if "sliding_window" in self.content and not self.content["sliding_window"]:
            return None
        return default if self.raw("sliding_window") is None else self.count("sliding_window")

    def kinds(self, layers: int) -> list[str] | None:
        """Return ``layer_types``, one text a layer, or None when the file leaves it to the family."""
        value = self.raw("layer_types")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers:
            raise ModelError(f"{self.where}: layer_types: not one entry for each of {layers} layers (got {value!r})")
        return [str(entry) for entry in value]

    def max_model_len(self, default: int | None = None) -> int:
        """Return the longest context, as vLLM derives it from positions and rotary scaling.

        Source: vLLM ``_get_and_verify_max_len``: a factor counts unless the positions include it already.
        """
        longest = self.count("max_position_embeddings", default)
        rope = self.raw("rope_scaling") or self.raw("rope_parameters")
        if not isinstance(rope, Mapping) or "gemma3" in self.model_type:
            return longest
        kind = rope.get("rope_type", rope.get("type"))
        factor = rope.get("factor")
        if kind in (None, "default", "su", "longrope", "llama3", "mrope") or not isinstance(factor, (int, float)):
            return longest
        if kind == "yarn":
            longest = int(rope.get("original_max_position_embeddings", longest))
        return int(longest * factor)

    def dtype(self) -> str:
        """Return the format of unquantised weights, "fp16" or "bf16"; vLLM runs fp32 checkpoints in bf16."""
        value = self.raw("dtype") or self.raw("torch_dtype") or self.whole.get("torch_dtype") or self.whole.get("dtype")
        return "fp16" if str(value).removeprefix("torch.") in ("float16", "half") else "bf16"
