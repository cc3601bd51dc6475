"""The shape of a model: what it weighs, what a token costs, what the cache of a token takes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention block.  ``window`` is the number of tokens a query sees, None for all of them.

    With ``chunked`` the window does not slide: a query sees its own chunk of ``window`` tokens only.
    ``bidirectional`` attention (encoders) sees what comes behind a query too, half of the window on either side, and
    keeps no cache; ``global_tokens`` see all and are seen by all, whatever the window (Longformer).  ``memory`` is
    the number of tokens before the segment whose hidden states are kept instead of keys and values, with relative
    positions (Transformer-XL).  With ``gated`` the query product yields a gate for each head's output (Qwen3-Next).
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
    bidirectional: bool = False
    global_tokens: int = 0
    memory: int = 0
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A block that remembers a state of constant size instead of a cache.

    ``heads`` heads with values of ``head_dim`` and keys of ``state_size`` elements keep ``heads x head_dim x
    state_size``; keys and queries (B and C in Mamba's words) are shared within ``groups``.  Before them a convolution
    over ``conv_kernel`` tokens.  ``mamba`` is selective scan (heads of width 1, a time step of rank ``rank``),
    ``mamba2`` the state-space duality, ``delta`` the gated delta rule of Qwen3-Next.  ``state_bytes`` an element.
    """

    kind: Literal["mamba", "mamba2", "delta"]
    heads: int
    head_dim: int
    state_size: int
    groups: int = 1
    conv_kernel: int = 4
    rank: int = 0
    state_bytes: float = 2.0

    @property
    def inner(self) -> int:
        """Elements of a token's values: the width that the output product reads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: values, and but for ``mamba`` keys and queries."""
        return self.inner + (0 if self.kind == "mamba" else 2 * self.groups * self.state_size)

    @property
    def state_elements(self) -> int:
        """Elements that one sequence keeps, the convolution's last inputs included."""
        return self.inner * self.state_size + (self.conv_kernel - 1) * self.channels


@dataclass(frozen=True, slots=True)
class Lstm:
    """One layer of long short-term memory (PyTorch's ``nn.LSTM``): serial in the length of the text.

    ``directions`` 2 reads the text from both ends, so it can stand in an encoder only.
    """

    input_size: int
    hidden_size: int
    directions: int = 1


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
    """One layer; ``small_parameters`` counts its norms, biases and attention sinks.

    Tokens meet in ``attention`` or in ``recurrent``; ``cross`` attends to the output of the encoder.  A part that a
    layer lacks is None.  ``parallel``: attention and feed-forward block read the same input, so that one norm and one
    sum over the devices serve both (PaLM, Falcon).
    """

    attention: Attention | None
    feed_forward: FeedForward | None
    small_parameters: int = 0
    recurrent: Recurrent | Lstm | None = None
    cross: Attention | None = None
    parallel: bool = False


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
    ``position_embeddings`` counts learned positions; ``small_parameters`` the norms outside the layers;
    ``mtp_layers`` the modules for multi-token prediction, which are no part of the layers.
    ``encoder`` are the layers through which the prompt passes, once, before a decoder's; with ``encoder_only`` the
    ``layers`` are an encoder's themselves: no cache, no output matrix, no tokens.  ``pooled``: it ends with a square
    matrix over the first token.  ``rotary``: positions are rotated into queries and keys, unless they are learned.
    ``static_scales``: the checkpoint brings the scales of quantised activations, so that none are looked for.
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
    mtp_layers: int = 0
    encoder: tuple[Layer, ...] = ()
    encoder_only: bool = False
    pooled: bool = False
    rotary: bool = True
    static_scales: bool = False
