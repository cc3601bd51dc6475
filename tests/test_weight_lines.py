"""What the memory report says of weights: its lines add up to what a stage holds, in every format."""

import pytest

from llmsim.model import load_model
from llmsim.model.weights import stage_weight_bytes
from llmsim.performance.weight_lines import weight_lines


@pytest.mark.parametrize("form", ["bf16", "fp8", "q4_0", "q8_0", "q4_k_m"])
def test_the_lines_are_positive_and_leave_nothing_over(form):
    model = load_model("llama-3.1-8b")
    last = len(model.layers)
    lines = weight_lines(model, 0, last, tensor=1, weight_format=form)
    assert all(line.value > 0 for line in lines)
    assert "weights: other" not in [line.part for line in lines]
    whole = stage_weight_bytes(model, 0, last, tensor=1, weight_format=form)
    assert sum(line.value for line in lines) == pytest.approx(whole, rel=1e-9)
