"""Prices of layers that are not a decoder's: encoders, cross attention, recurrent layers; by hand and by law."""

from dataclasses import replace

import numpy as np
import pytest

from llmsim.errors import InputError
from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.model.shape import Attention, CacheGroup, Lstm, Recurrent
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.forward import decode_steps, forward_pass, one_stage, static_batch
from llmsim.performance.recurrent import SCAN_CHUNK, LstmGroup, RecurrentGroup

A100 = load_device("a100-sxm-80gb")


def prices(name, **settings):
    return one_stage(load_model(name), A100, **settings)


def group(**changes):
    attention = Attention(**{"heads": 16, "kv_heads": 16, "head_dim": 64, **changes})
    return GroupAttention(Coefficients(A100, "vllm"), CacheGroup(attention.window, attention, 1), 1, "fp16")


# ---------------------------------------------------------------------- attention in both directions


@pytest.mark.parametrize("length", [1, 5, 64, 300])
@pytest.mark.parametrize("window", [None, 16, 128])
def test_positions_seen_in_both_directions_are_those_that_are_counted(length, window):
    # Token i of an encoder sees j with |i - j| <= window / 2 (half a window on either side), or all of them.  The
    # closed form counts the token itself half on each side, so it may differ by one for each token.
    half = length if window is None else window // 2
    counted = sum(abs(i - j) <= half for i in range(length) for j in range(length))
    assert group(bidirectional=True, window=window)._seen(length, 0) == pytest.approx(counted, abs=length)


def test_an_encoder_sees_twice_what_a_decoder_sees_and_global_tokens_add_two_rows():
    both, one = group(bidirectional=True), group()
    assert both._seen(512, 0) == 2 * one._seen(512, 0)
    local, more = group(bidirectional=True, window=64), group(bidirectional=True, window=64, global_tokens=3)
    assert more._seen(512, 0) - local._seen(512, 0) == 2 * 3 * 512


def test_an_encoder_has_no_sampler_no_output_matrix_and_no_steps_to_decode():
    answer = static_batch(prices("bert-base"), 8, 128, 0)
    spent = answer.prefill.by_operator()
    assert set(spent) == {"embedding", "attention", "feed_forward", "head"}
    assert (answer.steps, answer.per_token_s) == (0, None)
    assert answer.total_s == answer.first_token_s == answer.prefill.total_s
    # The head is the pooler, 768 x 768 for 8 rows: launch and little else.
    assert spent["head"] < 20e-6


def test_padding_costs_what_its_tokens_cost():
    bert = prices("bert-base")
    padded = forward_pass(bert, [384] * 32).total_s
    removed = forward_pass(bert, [192] * 32).total_s
    assert 0.4 < removed / padded < 0.6


def test_windows_make_long_texts_linear():
    local = replace(load_model("longformer-large"), max_model_len=1 << 17)
    whole = replace(
        local, layers=tuple(replace(one, attention=replace(one.attention, window=None)) for one in local.layers)
    )
    lengths = (8192, 65536)
    growth = [
        [forward_pass(one_stage(model, A100), [length]).total_s for length in lengths] for model in (local, whole)
    ]
    assert growth[0][1] / growth[0][0] == pytest.approx(8, rel=0.05)
    assert growth[1][1] / growth[1][0] > 20


# ---------------------------------------------------------------------- encoders with decoders


def test_a_prompt_passes_the_encoder_once_and_the_decoder_begins_with_one_token():
    t5 = prices("t5-base")
    short, long = (forward_pass(t5, [length]).total_s for length in (16, 512))
    assert long > short
    # The decoder's part does not grow: what does is the encoder with keys and values for the cross attention.
    linear = t5.linear(np.array([1.0])).sum()
    assert forward_pass(t5, [512]).total_s > linear
    step = decode_steps(t5, 1, 513, 1).total_s
    decoder_only = one_stage(replace(load_model("t5-base"), encoder=()), A100)
    # A step costs the encoder nothing: it is the decoder's own layers, and one more launch of attention in each.
    assert step == pytest.approx(decode_steps(decoder_only, 1, 513, 1).total_s, rel=0.2)


def test_steps_of_a_decoder_with_cross_attention_read_prompt_and_answer():
    t5 = prices("t5-base")
    contexts = (1024.0, 8192.0)
    near, far = (
        sum(t5.decode_attention(g, np.array([256.0]), np.array([context])).sum() for g in range(len(t5.windows)))
        for context in contexts
    )
    # 256 sequences of T5-base: 36,864 bytes a token, so 66 GB more; at 2.039 TB/s no less than 33 ms.
    assert far - near >= 256 * (8192 - 1024) * 36864 / A100.memory_bandwidth * 0.9


# ---------------------------------------------------------------------- recurrent layers


def recurrent(kind="mamba2", **changes):
    block = Recurrent(kind, **{"heads": 80, "head_dim": 64, "state_size": 128, **changes})
    return block, RecurrentGroup(Coefficients(A100, "vllm"), block, 1, 1)


def test_a_state_costs_the_same_at_every_length_and_is_moved_once_each_way():
    block, group = recurrent()
    batch = np.array([64.0, 64.0, 128.0])
    price = group.decode(batch, np.array([10.0, 100_000.0, 10.0]))
    assert price.total[0] == price.total[1]
    # By hand: read and write 64 x (80 x 64 x 128 + 3 x 5376) x 2 bytes at the element-wise share of 2.039 TB/s.
    fit = Coefficients(A100, "vllm").stream("act")
    moved = 64 * 2 * block.state_elements * 2.0 + 64 * 2 * 2 * (block.inner + block.channels)
    assert price.memory[0] == pytest.approx(moved / (A100.memory_bandwidth * fit.e_bw))
    assert price.memory[2] == pytest.approx(2 * price.memory[0])


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "delta"])
def test_a_prompt_costs_in_proportion_to_its_length_and_not_more_behind_a_prefix(kind):
    changes = {"heads": 5120, "head_dim": 1, "state_size": 16} if kind == "mamba" else {}
    _, group = recurrent(kind, **changes)
    one, ten = (group.mixed([(tokens, 0)], 0, 0.0, 0.0)[0] for tokens in (4096, 40960))
    launch = group.mixed([(1, 0)], 0, 0.0, 0.0)[0]
    assert (ten - launch) / (one - launch) == pytest.approx(10, rel=0.05)
    assert group.mixed([(4096, 90_000)], 0, 0.0, 0.0)[0] == one


def test_the_work_of_a_chunked_scan_by_hand():
    # Mamba-2, chunk 256, N 128, P 64, 80 heads: 2 x 256 x (128 + 64) + 4 x 128 x 64 operations a token and head.
    _, group = recurrent(groups=1)
    work = 80 * (2 * SCAN_CHUNK["mamba2"] * 192 + 4 * 128 * 64)
    known = Coefficients(A100, "vllm")
    compute = 8192 * work / (known.chip.bf16 * known.prefill("bfloat16").fit.e)
    seconds, share = group.mixed([(8192, 0)], 0, 0.0, 0.0)
    # Bytes of a token: values, keys, queries and outputs, and the state once each way for each of 32 chunks.
    fit, block = known.stream("act"), Recurrent("mamba2", 80, 64, 128)
    moved = 8192 * 2 * (block.inner + block.channels) * 2 + 2 * 32 * block.state_elements * 2
    memory = moved / (A100.memory_bandwidth * fit.e_bw)
    assert seconds == pytest.approx(max(compute, memory) + 6 * fit.t0_us * 1e-6)
    assert share == pytest.approx(compute / seconds if compute > memory else 0.0)


def test_an_lstm_walks_a_text_token_by_token_and_a_batch_walks_together():
    model = load_model("lstm-1b")
    block = model.layers[0].recurrent
    assert isinstance(block, Lstm)
    stage = one_stage(model, A100)
    walk = next(one for one in stage._groups if isinstance(one, LstmGroup))
    one, double = (walk.mixed([(tokens, 0)], 0, 0.0, 0.0)[0] for tokens in (100, 200))
    assert double == pytest.approx(2 * one)
    # 16 texts at once cost hardly more than one: the matrix is what a step waits for.
    assert walk.mixed([(100, 0)] * 16, 0, 0.0, 0.0)[0] < 1.3 * one
    # Texts of 100 and 40 tokens: 40 steps with two rows, 60 with one.
    two = walk.mixed([(40, 0), (40, 0)], 0, 0.0, 0.0)[0] + walk.mixed([(60, 0)], 0, 0.0, 0.0)[0]
    assert walk.mixed([(100, 0), (40, 0)], 0, 0.0, 0.0)[0] == pytest.approx(two)


def test_the_lstm_and_the_transformer_cross_over_the_length():
    # Equal parameters.  A Transformer reads its prompt at once but looks back at every step; the LSTM does neither.
    lstm, transformer = prices("lstm-1b"), prices("llama-3.2-1b")
    read = [[forward_pass(one, [length]).total_s for one in (lstm, transformer)] for length in (8, 1024)]
    assert read[1][0] > 10 * read[1][1]
    step = [decode_steps(one, 64, 100_000, 1).total_s for one in (lstm, transformer)]
    assert step[0] < step[1]
    near = [decode_steps(one, 64, 16, 1).total_s for one in (lstm, transformer)]
    assert near[0] == pytest.approx(step[0])


def test_memory_of_hidden_states_is_projected_anew():
    xl = prices("transformer-xl-base", eager=False)
    with_memory, without = (forward_pass(xl, [64] * 8, before=before).total_s for before in (640, 0))
    # 8 x 640 more rows through 16 products of 512 x 1536, and scores of 704 instead of 64 columns.
    assert with_memory > 2 * without


@pytest.mark.parametrize("lengths", [[], [0], [3, -1]])
def test_empty_batches_are_refused(lengths):
    with pytest.raises(InputError, match="each at least 1"):
        forward_pass(prices("bert-base"), lengths)


def test_kinds_add_up_to_the_whole():
    for name in ("bert-base", "t5-base", "gnmt-v2", "jamba-v0.1", "transformer-xl-base"):
        spent = forward_pass(prices(name), [100, 50])
        assert sum(spent.by_operator().values()) == pytest.approx(spent.total_s)
        assert sum(spent.by_resource().values()) == pytest.approx(spent.total_s)
