"""Shortest job first, by predictions that may err."""

from __future__ import annotations

from typing import Literal

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.orders.checks import least
from llmsim.schedulers.orders.prediction import LengthPredictor
from llmsim.schedulers.orders.progress import scheduled_output
from llmsim.schedulers.orders.ranked import Rank, RankedBatching
from llmsim.schedulers.sequence import Sequence


class ShortestJobFirst(RankedBatching):
    """Continuous batching in which the request with the shortest predicted answer is admitted first.

    The rank of a request is its predicted output in tokens plus ``aging_tokens_per_s`` times its arrival: among
    those who wait this is the same order as taking that many tokens off for each second of waiting, and it needs no
    clock.  A request of P predicted tokens is passed only by requests that arrive within P / aging
    seconds after it.  **With ``aging_tokens_per_s: 0`` long requests may starve** while shorter ones keep coming.
    The queue's head is never skipped, nobody who runs gives way to a newcomer, and when blocks run out the
    running sequence of the highest rank is preempted and goes back to its rank.

    Sources: Smith, Naval Research Logistics Quarterly 3 (1956): shortest first minimises the mean time in the
    system of jobs that are there; Fu et al., "Efficient LLM Scheduling by Learning to Rank" (NeurIPS 2024): the
    waiting queue by predicted output length, with a guard against starvation (theirs promotes whoever has
    waited for a number of steps; the linear aging is ours); Zheng et al., "Response Length Perception and Sequence
    Scheduling" (NeurIPS 2023): lengths known in buckets of tokens.

    Args:
        options: the engine's options, as for `ContinuousBatching`; ``scheduling_policy`` must be ``fcfs``.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        seed: the scenario's seed, for the errors of predictions.
        prediction_error: standard deviation of the natural logarithm of predicted by true length; 0 is an oracle.
        bucket_tokens: predictions are known only to buckets of so many tokens; 0 for exact ones.
        aging_tokens_per_s: predicted tokens that a second of waiting makes up for; 0 for no aging.
        by: the length of the whole answer, or what remains of it when a preempted request comes back.
    """

    name = "shortest_job_first"

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        seed: int = 0,
        prediction_error: float = 0.0,
        bucket_tokens: int = 0,
        aging_tokens_per_s: float = 10.0,
        by: Literal["output", "remaining"] = "output",
    ) -> None:
        least(self.name, "prediction_error", prediction_error)
        least(self.name, "bucket_tokens", bucket_tokens)
        least(self.name, "aging_tokens_per_s", aging_tokens_per_s)
        self._aging = aging_tokens_per_s
        self._remaining = by == "remaining"
        self._predictor = LengthPredictor(seed, prediction_error, bucket_tokens, options.max_model_len)
        self._predicted: dict[Sequence, int] = {}
        super().__init__(options, pool, leap=leap)

    def add(self, sequence: Sequence) -> bool:
        """Predict the length of a newcomer's answer and queue it."""
        self._predicted[sequence] = self._predictor.output_tokens(sequence.request)
        return super().add(sequence)

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come, and forget their predictions."""
        finished = super().settle(batch, steps)
        for sequence in finished:
            del self._predicted[sequence]
        return finished

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone."""
        super().remove(sequence)
        del self._predicted[sequence]

    def rank(self, sequence: Sequence) -> Rank:
        """Return the predicted tokens, whole or remaining (at least 1), with the aging, and the arrival."""
        tokens = self._predicted[sequence]
        if self._remaining:
            tokens = max(1, tokens - scheduled_output(sequence))
        arrival = sequence.request.arrival_s
        return tokens + self._aging * arrival, arrival, sequence.arrival
