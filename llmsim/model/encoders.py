"""Encoders, encoders with decoders, and Transformer-XL: what each family makes of its config.json."""

from collections.abc import Callable
from dataclasses import replace

from llmsim.model.config import Config
from llmsim.model.families import UNLIMITED, Body
from llmsim.model.shape import Attention, FeedForward, Layer, Lstm


def bert(
    *, token_types: int = 2, pooled: bool = True, windowed: bool = False, offset: int = 0
) -> Callable[[Config], Body]:
    """Return the reader of BERT and its kin: learned positions, biases everywhere, attention in both directions.

    ``offset`` positions are never used (RoBERTa); ``windowed`` reads Longformer's windows, and the second set of
    query, key and value products that its global tokens have.
    """

    def read(config: Config) -> Body:
        hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
        heads = config.count("num_attention_heads")
        width = config.count("intermediate_size", config.count("hidden_dim", 4 * hidden))
        small = 4 * hidden + 4 * hidden + width + hidden  # biases of attention; two norms; biases of the block
        attention = Attention(heads, heads, hidden // heads, bidirectional=True)
        windows: list[int | None] = [None] * layers
        if windowed:
            small += 3 * (hidden * hidden + hidden)
            said = config.raw("attention_window")
            windows = list(said) if isinstance(said, list) else [int(said or 512)] * layers
            attention = replace(attention, global_tokens=config.amount("global_tokens", 1))
        stack = tuple(Layer(replace(attention, window=window), FeedForward(width, 2), small) for window in windows)
        types = config.amount("type_vocab_size", token_types)
        longest = config.count("max_position_embeddings", 512)
        norms = 2 * hidden + (hidden if pooled else 0)  # behind the embedding; the pooler's bias
        return Body(
            stack, norms, position_embeddings=longest + types, attention_bias=True, encoder_only=True, pooled=pooled,
            positions_default=longest - offset, vocab_default=30522, rotary=False,
        )  # fmt: skip

    return read


def t5(config: Config) -> Body:
    """T5: an encoder, and a decoder whose layers attend to themselves and to it; no biases, relative positions."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    width, head_dim = config.count("d_ff", 2048), config.count("d_kv", 64)
    layers = config.count("num_hidden_layers")
    gated = str(config.raw("feed_forward_proj") or "").startswith("gated")
    block = FeedForward(width, 3 if gated else 2)
    attention = Attention(heads, heads, head_dim)
    buckets = config.amount("relative_attention_num_buckets", 32) * heads
    encoder = (Layer(replace(attention, bidirectional=True), block, 2 * hidden),) * layers
    decoder = (Layer(attention, block, 3 * hidden, cross=attention),) * config.count("num_decoder_layers", layers)
    return Body(
        decoder, 2 * hidden + 2 * buckets, tied_default=True, encoder=encoder, positions_default=512,
        vocab_default=32128, rotary=False,
    )  # fmt: skip


def gnmt(config: Config) -> Body:
    """GNMT v2: LSTM layers on both sides, the encoder's first one in both directions, Bahdanau attention.

    Source: NVIDIA DeepLearningExamples, PyTorch/Translation/GNMT, "Model architecture": the first decoder layer asks
    the attention, whose answer goes into the input of every later one.  Attention has two matrices; it is read as
    four of which two are idle, 1.3 % of the weights.
    """
    hidden, layers = config.count("hidden_size", 1024), config.count("num_hidden_layers", 4)
    first = Lstm(hidden, hidden, 2)
    rest = [Lstm(2 * hidden if index == 0 else hidden, hidden) for index in range(layers - 1)]
    encoder = tuple(Layer(None, None, _biases(one), one) for one in (first, *rest))
    asks = Lstm(hidden, hidden)
    later = Lstm(2 * hidden, hidden)
    decoder = (
        Layer(None, None, _biases(asks), asks, Attention(1, 1, hidden)),
        *(Layer(None, None, _biases(later), later) for _ in range(layers - 1)),
    )
    return Body(decoder, config.count("vocab_size", 32320), encoder=encoder, positions_default=512, rotary=False)


def lstm(config: Config) -> Body:
    """A language model of LSTM layers: one after the other, as wide as the embedding."""
    hidden = config.count("hidden_size")
    one = Lstm(hidden, hidden)
    layers = (Layer(None, None, _biases(one), one),) * config.count("num_hidden_layers")
    return Body(layers, config.count("vocab_size"), positions_default=UNLIMITED, rotary=False)


def transformer_xl(config: Config) -> Body:
    """Transformer-XL: keys and values of a memory of hidden states are computed anew for each segment.

    Source: Dai et al. 2019, section 3; keys as in ``TransfoXLConfig`` (``mem_len``, ``tgt_len``, ``d_inner``).
    """
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    head_dim, width = config.count("d_head", hidden // heads), config.count("d_inner", 4 * hidden)
    memory, segment = config.count("mem_len", 640), config.count("tgt_len", 64)
    attention = Attention(heads, heads, head_dim, window=memory + segment, memory=memory)
    small = 4 * hidden + width + hidden + 2 * heads * head_dim
    layer = Layer(attention, FeedForward(width, 2), small)
    clusters = len(config.raw("cutoffs") or ()) * (hidden + 1)
    vocabulary = config.count("vocab_size", 267735)
    return Body(
        (layer,) * config.count("num_hidden_layers"), clusters + vocabulary, tied_default=True,
        positions_default=UNLIMITED, rotary=False,
    )  # fmt: skip


def _biases(block: Lstm) -> int:
    return block.directions * 8 * block.hidden_size  # two vectors for each of four gates


ENCODERS: dict[str, Callable[[Config], Body]] = {
    "bert": bert(),
    "roberta": bert(token_types=1, offset=2),
    "xlm-roberta": bert(token_types=1, offset=2),
    "camembert": bert(token_types=1, offset=2),
    "distilbert": bert(token_types=0, pooled=False),
    "longformer": bert(token_types=1, windowed=True, offset=2),
    "t5": t5,
    "mt5": t5,
    "gnmt": gnmt,
    "lstm": lstm,
    "transfo-xl": transformer_xl,
}
