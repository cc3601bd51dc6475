"""What proposes the drafts of speculative decoding: its prices, its weights and its cache.

A draft model is a model of its own.  EAGLE's head and a multi-token-prediction (MTP) module are one layer each behind a
matrix that joins hidden states of the target with the embedding of the last token; they use the target's embedding
and output matrix.  Sources: Li et al. 2024 (EAGLE) and 2025 (EAGLE-3, three of the target's layers joined),
DeepSeek-V3 technical report, section 2.2 (MTP).
"""

from dataclasses import dataclass, replace

import numpy as np

from llmsim.engine_options import Speculation
from llmsim.hardware import Device
from llmsim.model import weights
from llmsim.model.shape import ModelShape
from llmsim.parallel import Plan, Stage
from llmsim.performance.correction import NEUTRAL, StackCorrection
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import Tally
from llmsim.performance.stage_prices import StagePrices

# Hidden states that the matrix in front of the layer joins: EAGLE the last one and the embedding; EAGLE-3 three of the
# target's layers before, then as EAGLE.
_JOINED = {"eagle": 2, "eagle3": 3, "mtp": 2}


@dataclass(frozen=True, slots=True)
class DraftMemory:
    """Bytes on each device of the target's: the draft's weights, and its cache for one token."""

    weight_bytes: float = 0.0
    cache_bytes_per_token: float = 0.0


class DraftPrices(StagePrices):
    """Prices of what proposes drafts: all its layers, embedding and head as one stage.

    Args:
        speculation: with a ``draft``.
        device: of the target's ranks.
        target: the stage of the target model, whose links and devices the draft uses.
        stack: of the coefficients.
        cache_format: of the KV cache.
        static_quant: see `StagePrices`.
        eager: see `StagePrices`.
        correction: see `StagePrices`.
    """

    def __init__(
        self,
        speculation: Speculation,
        device: Device,
        target: Stage,
        *,
        stack: str,
        cache_format: str,
        static_quant: bool | None,
        eager: bool,
        correction: StackCorrection = NEUTRAL,
    ) -> None:
        draft = speculation.draft
        assert draft is not None
        tensor = speculation.draft_tensor
        stage = Stage(0, 0, len(draft.layers), target.devices[:tensor], target.collective if tensor > 1 else None, None)
        super().__init__(
            draft,
            Plan(tensor, 1),
            stage,
            device,
            stack=stack,
            cache_format=cache_format,
            static_quant=static_quant,
            eager=eager,
            correction=correction,
        )
        self._joined = _JOINED.get(speculation.method, 0)

    def linear(self, tokens: Array) -> Array:
        """Price what depends on the tokens of a pass: seconds [len(kinds), len(tokens)]."""
        tokens = np.asarray(tokens, dtype=np.float64)
        seconds = super().linear(tokens)
        if self._joined:
            hidden = self._model.hidden_size
            tally = Tally(len(tokens))
            price = self._operators.gemm(self._wide, tokens, -(-hidden // self._plan.tensor), self._joined * hidden)
            tally.add("feed_forward", price)
            seconds = seconds + tally.seconds * self._scales
        return seconds


def layer_of(target: ModelShape, method: str) -> ModelShape:
    """Return the shape of the one layer that EAGLE or MTP adds to ``target``: like its last one.

    EAGLE's is dense and stays in 16 bit, MTP's is of the target's format.
    """
    layer = next(layer for layer in reversed(target.layers) if layer.attention is not None)
    assert layer.attention is not None
    attention, block = replace(layer.attention, window=None, chunked=False), layer.feed_forward
    if method == "mtp":
        return replace(target, name=f"{target.name} {method}", layers=(replace(layer, attention=attention),), notes=())
    if block is not None and block.experts:
        width = block.intermediate_size * block.experts_per_token + block.shared_intermediate_size
        block = replace(block, intermediate_size=width, experts=0, experts_per_token=0, shared_intermediate_size=0)
    return replace(
        target,
        name=f"{target.name} {method}",
        layers=(replace(layer, attention=attention, feed_forward=block),),
        weight_format=target.dtype,
        attention_format=None,
        notes=(),
    )


def draft_memory(speculation: Speculation | None, cache_format: str) -> DraftMemory:
    """Return what drafts take of the memory of each device of the target's, which all hold a part of the draft.

    A draft on one device of several still takes its room on all of them: the blocks of the cache are the same there.
    """
    if speculation is None or speculation.draft is None:
        return DraftMemory()
    draft, tensor = speculation.draft, speculation.draft_tensor
    cache = weights.cache_bytes_per_token(draft, cache_format, tensor)
    joined = _JOINED.get(speculation.method, 0)
    if not joined:
        return DraftMemory(weights.stage_weight_bytes(draft, tensor=tensor), cache)
    matrix = joined * draft.hidden_size**2 * weights.format_bytes_per_element(draft.dtype)
    return DraftMemory(weights.layer_weight_bytes(draft, 0, tensor=tensor) + matrix / tensor, cache)
