"""Heads that are added so that a model divides among devices."""

import pytest

from llmsim.errors import InfeasibleError, ModelError
from llmsim.model import load_model
from llmsim.model.padding import heads_needed, with_heads
from llmsim.model.weights import parameters
from llmsim.parallel import Plan, check


def test_palm_is_padded_to_64_heads_for_64_chips_and_grows_by_18_billion_parameters():
    # Pope et al. 2022, section 4: "this adds 18B parameters".  By hand: 16 more heads of 256 elements in the query and
    # the output matrix of 18,432, in each of 118 layers: 16 x 256 x 18432 x 2 x 118 = 17.8 billion.
    palm = load_model("palm-540b")
    assert heads_needed(palm, 64) == 64
    padded = with_heads(palm, 64)
    assert parameters(padded) - parameters(palm) == 16 * 256 * 18432 * 2 * 118
    with pytest.raises(InfeasibleError, match="64 does not divide 48 heads"):
        check(palm, Plan(64))
    check(padded, Plan(64))


def test_what_divides_stays_as_it_is():
    assert heads_needed(load_model("palm-540b"), 16) is None
    assert heads_needed(load_model("llama-3.1-70b"), 8) is None


def test_kv_heads_grow_along_where_each_query_head_has_its_own():
    gpt = load_model("gpt-3-175b")  # 96 heads, each with keys and values
    assert heads_needed(gpt, 64) == 128
    attention = with_heads(gpt, 128).layers[0].attention
    assert (attention.heads, attention.kv_heads) == (128, 128)
    # Groups keep their KV heads, which must divide: 28 heads over 4 KV heads, on 16 devices.
    qwen = load_model("qwen2.5-7b")
    assert heads_needed(qwen, 16) == 32
    assert with_heads(qwen, 32).layers[0].attention.kv_heads == 4


def test_a_model_is_named_with_its_padded_heads():
    padded = load_model("palm-540b-heads64")
    assert padded.name == "palm-540b-heads64"
    assert "padded to 64 query heads" in padded.notes


@pytest.mark.parametrize("heads", [32, 30])
def test_heads_are_only_added_and_must_be_whole_groups(heads):
    with pytest.raises(ModelError, match="padding its heads"):
        with_heads(load_model("palm-540b" if heads == 32 else "qwen2.5-7b"), heads)
