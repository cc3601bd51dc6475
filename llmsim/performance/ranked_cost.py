"""What a step costs on several ranks of attention that share their experts: as long as on the slowest rank.

Each rank computes attention, dense blocks and shared experts for its own sequences; the routed experts compute the
tokens of all ranks, and all wait for the last.  There is one scheduler for all ranks here (a real engine has one for
each): those who decode are spread evenly, so the fullest rank has ``ceil(sequences / ranks)`` of them, and the prompts
of a step are dealt out largest first, each to the rank with the fewest prompt tokens so far.  In steps that only decode
every rank is padded to the fullest one, as engines do with CUDA graphs (vLLM, ``coordinate_batch_across_dp``;
TensorRT-LLM, ``CUDAGraphRunner``; SGLang, ``DpPaddingMode``), and what is padded goes through the experts too.
"""

import numpy as np

from llmsim.engine_options import EngineOptions
from llmsim.performance.stage_prices import StagePrices
from llmsim.performance.step_cost import MOST_TABULATED, Floats, StepCost


class RankedStepCost(StepCost):
    """The cost of the steps of one stage whose attention runs in ``ranks`` copies.

    Args:
        prices: prices of the stage, of a plan with attention data parallelism.
        options: the options of one rank.
        ranks: how many there are.
        host: whether the host's work is charged here.
        host_stretch: by how much host work is slowed down by others on the same cores.
        windows: the windows of all stages, ascending; None: those of this one.
    """

    prices: StagePrices

    def __init__(
        self,
        prices: StagePrices,
        options: EngineOptions,
        *,
        ranks: int,
        host: bool = True,
        host_stretch: float = 1.0,
        windows: tuple[int, ...] | None = None,
    ) -> None:
        self.ranks = ranks
        super().__init__(prices, options, host=host, host_stretch=host_stretch, windows=windows)

    def _build(self) -> None:
        # Prompts that do not deal out evenly take the fullest rank beyond its budget.
        self._most = min(2 * self._most, MOST_TABULATED)
        super()._build()
        tokens = np.arange(self.linear_kinds.shape[1], dtype=float)
        self.rank_kinds = self.prices.rank_linear(np.maximum(tokens, 1.0))
        self.rank_kinds[:, 0] = 0.0
        together = np.arange(min(self.ranks * self._most, 4 * MOST_TABULATED) + 1, dtype=float)
        self.shared_kinds = self.prices.shared_linear(np.maximum(together, 1.0))
        self.shared_kinds[:, 0] = 0.0
        self._rank: list[float] = self.rank_kinds.sum(axis=0).tolist()
        self._shared: list[float] = self.shared_kinds.sum(axis=0).tolist()

    def fullest(self, chunks: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the chunks (tokens, prefix) of the rank with the most prompt tokens, the first of those with as many.

        Dealt out largest first, each to the rank with the fewest tokens; ties go to the first rank, and among chunks of
        equal length to the one with the longer prefix.
        """
        if len(chunks) == 1:
            return chunks
        dealt: list[list[tuple[int, int]]] = [[] for _ in range(min(self.ranks, len(chunks)))]
        loads = [0] * len(dealt)
        for chunk in sorted(chunks, reverse=True):
            place = loads.index(min(loads))
            dealt[place].append(chunk)
            loads[place] += chunk[0]
        return dealt[loads.index(max(loads))]

    def step(
        self,
        chunks: list[tuple[int, int]],
        decodes: int,
        contexts: tuple[int, ...],
        longest: int,
        sampled: int,
    ) -> tuple[float, int, float, float]:
        """Price a step with prefill chunks (tokens, prefix) beside ``decodes`` decoding sequences of all ranks.

        Returns:
            seconds, tokens of the fullest rank after padding, its seconds of attention, and the share of those that
            compute bounds.
        """
        mine = self.fullest(chunks)
        each = -(-decodes // self.ranks)
        padded = self.options.padded(each + sum(new for new, _ in mine))
        together = decodes + sum(new for new, _ in chunks)
        attention = compute = 0.0
        part = each / decodes if decodes else 0.0
        for group, column in enumerate(self._columns):
            seconds, share = self.prices.mixed_attention(group, mine, each, contexts[column] * part, longest)
            attention += seconds
            compute += seconds * share
        rows = -(-sampled // self.ranks)
        head = self._head[rows] if rows < len(self._head) else self._price_head(rows)
        device = self._rank_price(padded) + self._shared_price(together) + attention + head
        host = self._host[min(each + len(mine), len(self._host) - 1)]
        seconds = max(device, host) if self._hidden_host else device + host
        return seconds, padded, attention, compute / attention if attention else 0.0

    def _rank_price(self, tokens: int) -> float:
        if tokens < len(self._rank):
            return self._rank[tokens]
        return float(self.prices.rank_linear(np.array([float(tokens)])).sum())

    def _shared_price(self, tokens: int) -> float:
        if tokens < len(self._shared):
            return self._shared[tokens]
        return float(self.prices.shared_linear(np.array([float(tokens)])).sum())

    def outside_kinds(self, columns: dict[str, Floats]) -> Floats:
        """Return the seconds of each kind of work outside of attention's kernels on the fullest rank: [kinds, rows]."""
        spread = {**columns, "sampled_rows": np.ceil(columns["sampled_rows"] / self.ranks)}
        seconds = super().outside_kinds(spread)
        mixed = np.flatnonzero(columns["prefill_sequences"] > 0)
        if len(mixed):
            own = columns["tokens_padded"][mixed]
            rank = np.minimum(own.astype(np.int64), self.linear_kinds.shape[1] - 1)
            scale = own / np.maximum(rank, 1)
            together = (columns["decodes"] + columns["prefill_tokens"])[mixed]
            known = np.minimum(together.astype(np.int64), self.shared_kinds.shape[1] - 1)
            seconds[:, mixed] += (self.rank_kinds[:, rank] - self.linear_kinds[:, rank]) * scale
            seconds[:, mixed] += self.shared_kinds[:, known] * (together / np.maximum(known, 1))
        return seconds
