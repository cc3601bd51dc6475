"""The shape of a model: what it weighs, what a token costs, what the cache of a token takes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention block.  ``window`` is the number of tokens a query sees, None for all of them.

    With ``chunked`` the window does not slide: a query sees its own chunk of ``window`` tokens only.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    kind: Literal["gqa", "mla"] = "gqa"
    # Multi-head latent attention only: ranks and head parts of DeepSeek-V2/V3.
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_head_dim: int = 0
    nope_head_dim: int = 0
    value_head_dim: int = 0
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One feed-forward block: ``matrices`` is 3 when gated (SwiGLU), else 2.

    With ``experts`` > 0 it is a mixture: ``intermediate_size`` is then the width of one expert, and
    ``shared_intermediate_size`` the width of the experts that every token visits.
    """

    intermediate_size: int
    matrices: int = 3
    experts: int = 0
    experts_per_token: int = 0
    shared_intermediate_size: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer; ``small_parameters`` counts its norms, biases and attention sinks."""

    attention: Attention
    feed_forward: FeedForward
    small_parameters: int = 0


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """The layers of a model whose KV cache behaves alike: one full-attention group, one per window."""

    window: int | None
    attention: Attention
    layers: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Everything the simulator needs to know of a model; sizes in elements, tokens or layers.

    ``weight_format`` is that of the big matrices of the layers, ``attention_format`` that of the
    attention's when it differs, ``dtype`` that of all the rest and of the activations.
    ``cache_format`` is set when the checkpoint itself asks for a quantised KV cache.
    ``position_embeddings`` counts learned positions; ``small_parameters`` the norms outside the layers.
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layer, ...]
    max_model_len: int
    weight_format: str = "bf16"
    tied_embeddings: bool = False
    attention_bias: bool = False
    position_embeddings: int = 0
    source: str = ""
    attention_format: str | None = None
    dtype: str = "bf16"
    cache_format: str | None = None
    embedding_size: int | None = None
    small_parameters: int = 0
    notes: tuple[str, ...] = ()
