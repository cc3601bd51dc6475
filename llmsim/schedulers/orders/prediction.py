"""How long an answer will be, as somebody who errs would predict it from the prompt."""

from __future__ import annotations

from math import exp

from llmsim.random import stream
from llmsim.workload.request import Request


class LengthPredictor:
    """Predicts the output tokens of a request.

    The prediction is the true length times exp(``error`` z), z a standard normal draw: its median is the
    truth.  The draw belongs to the request's id, so another policy, or another order of asking, meets the very
    same predictions.  With ``bucket_tokens`` only the bucket is known, and the prediction is its upper end.

    Args:
        seed: the scenario's seed.
        error: standard deviation of the prediction's logarithm; 0 is an oracle.
        bucket_tokens: width of the buckets in tokens, 0 for none.
        most: the longest prediction: no answer is longer than the model's context.
    """

    def __init__(self, seed: int, error: float, bucket_tokens: int, most: int) -> None:
        self._seed = seed
        self._error = error
        self._bucket = bucket_tokens
        self._most = most

    def output_tokens(self, request: Request) -> int:
        """Return the predicted length of the answer, at least 1."""
        tokens = request.output_tokens
        if self._error:
            draw = float(stream(self._seed, "prediction", request.id).standard_normal())
            # An exponent beyond this is no length of anything, and would overflow.
            tokens = round(tokens * exp(min(self._error * draw, 40.0)))
        tokens = min(max(tokens, 1), self._most)
        return tokens if not self._bucket else -(-tokens // self._bucket) * self._bucket
