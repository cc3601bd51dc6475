"""The prices of a stage of llama.cpp: ggml's kernels (`llmsim.performance.ggml`) over the layers of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmsim.hardware import Device
from llmsim.model.shape import FeedForward, ModelShape
from llmsim.model.weights import (
    attention_elements,
    attention_groups,
    feed_forward_elements,
    format_bytes_per_element,
    kv_heads_of_rank,
    recurrent_elements,
    vocabulary_formats,
)
from llmsim.parallel import Plan, Stage
from llmsim.performance import ggml
from llmsim.performance.collectives import send
from llmsim.performance.correction import stack_names, stack_of
from llmsim.performance.kernels import Array, Price, active_experts
from llmsim.performance.kinds import Tally
from llmsim.performance.stage_prices import StagePrices

# Between kernels everything is 32 bit.  A norm reads and writes, so does its weight; a sum moves three, the gate of a
# block five vectors, packing and unpacking of operands as much again.
_FLOAT = 4.0
_EXPERT_LAUNCHES = 8.0  # router, softmax, top-k, and the sum over experts


def prices_of_stage(model: ModelShape, plan: Plan, stage: Stage, device: Device, **options: Any) -> StagePrices:
    """Return the prices of a stage, by the kernels of its stack; the arguments are those of `StagePrices`."""
    made = GgmlPrices if _kernels(options) in ggml.BACKENDS else StagePrices
    return made(model, plan, stage, device, **options)


def _kernels(options: Mapping[str, Any]) -> str:
    """Return the kernels of a stack, which is named by them or as in ``stacks.yaml``."""
    stack = str(options.get("stack", ""))
    return stack_of(stack).kernels if stack in stack_names() else stack.split("@")[0]


class GgmlPrices(StagePrices):
    """What the work of one stage costs in llama.cpp; the arguments are those of `StagePrices`.

    Attributes:
        micro_batch: tokens of the batches into which a prompt is cut.
    """

    def __init__(self, model: ModelShape, plan: Plan, stage: Stage, device: Device, **options: Any) -> None:
        super().__init__(model, plan, stage, device, **options)
        self.micro_batch = ggml.MICRO_BATCH
        stack = "ggml-metal" if device.maker == "Apple" and device.kind == "gpu" else _kernels(options)
        self._products = ggml.Products(device, stack)
        self._backend = self._products.backend
        self._format = options.get("weight_format") or model.weight_format
        self._output_format = vocabulary_formats(model.dtype, self._format)[1]
        self._cache_bytes = format_bytes_per_element(str(options.get("cache_format", "bf16")))
        layers = model.layers[stage.first_layer : stage.last_layer]
        self._mixing = attention_groups([layer.attention or layer.cross for layer in layers])
        self._told = f"data sheet ({stack}: kernels of llama.cpp by their source)"
        self.warnings = [f"device {device.name}: llama.cpp's kernels are priced from the data sheet"]

    # -- prices --------------------------------------------------------------------------------------------

    def rank_linear(self, tokens: Array) -> Array:
        """Price what depends on the tokens of a step, cut into micro-batches: seconds [len(kinds), len(tokens)]."""
        tokens = np.asarray(tokens, dtype=np.float64)
        whole, rest = np.divmod(tokens, float(ggml.MICRO_BATCH))
        full = self._micro(np.array([float(ggml.MICRO_BATCH)]))
        return np.asarray(full * whole + np.where(rest > 0, self._micro(np.maximum(rest, 1.0)), 0.0))

    def _micro(self, tokens: Array) -> Array:
        """Price one micro-batch."""
        tally, model, tensor = Tally(len(tokens)), self._model, self._plan.tensor
        hidden = model.hidden_size
        parts: list[tuple[str, float, int]] = []
        for attention, count in self._attentions.items():
            parts.append(("attention", float(attention_elements(hidden, attention, tensor)), count))
        for recurrent, count in self._recurrents.items():
            parts.append(("attention", float(recurrent_elements(hidden, recurrent, tensor)), count))
        for block, count in self._blocks.items():
            if block.experts:
                self._add_mixture(tally, block, tokens, count)
            else:
                parts.append(("feed_forward", float(feed_forward_elements(hidden, block, tensor)), count))
        for operator, elements, count in parts:
            tally.add(operator, self._products.price(elements, self._format, tokens), count)
        self._add_small(tally, tokens)
        size = _FLOAT * hidden * tokens
        tally.add_communication(self._group.all_reduce(size), self._parts_count)
        if self._stage.onward is not None:
            tally.add_communication(ggml.HOP_S + send(self._known, self._stage.onward, size))
        return tally.seconds * self._scales

    def _add_small(self, tally: Tally, tokens: Array) -> None:
        """Add the launches of all kernels, and what the element-wise ones move."""
        backend, hidden = self._backend, self._model.hidden_size
        packed = 0 if self._format not in ("bf16", "fp16", "fp32") else 1
        launches = np.where(tokens <= backend.vector_tokens[packed], backend.launches[packed], backend.launches[0] + 5)
        half = 0.5 * self._parts_count * ggml.LAUNCH_S * backend.launch_share * launches
        moved = 0.0
        for block, count in self._blocks.items():
            moved += count * (16 * hidden + 5 * _FLOAT * block.intermediate_size * max(block.experts_per_token, 1))
        memory = ggml.IN_MEMORY * moved * tokens / self._products.bandwidth
        tally.add("attention", Price(half, 0.0 * tokens, memory))

    def _add_mixture(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        """Add ``count`` mixtures: of each expert that a token visits the weights are read, and unpacked for many."""
        hidden, tensor = self._model.hidden_size, self._plan.tensor
        active = active_experts(tokens, block.experts, block.experts_per_token)
        each = tokens * block.experts_per_token / active
        one = block.matrices * hidden * block.intermediate_size / tensor
        price = self._products.price(one, self._format, each)
        launches = np.where(tokens > 1, 2.0 * block.matrices * active, 0.0) + _EXPERT_LAUNCHES
        launch = ggml.LAUNCH_S * self._backend.launch_share * launches
        tally.add("experts", Price(launch, price.compute * active, price.memory * active), count)
        tally.add("experts", self._products.price(float(hidden * block.experts), "fp16", tokens), count)
        if block.shared_intermediate_size:
            shared = float(block.matrices * hidden * block.shared_intermediate_size / tensor)
            tally.add("experts", self._products.price(shared, self._format, tokens), count)

    def head(self, rows: Array) -> Array:
        """Price the last norm and the output matrix for ``rows`` sequences; zeros on every stage but the last."""
        rows = np.asarray(rows, dtype=np.float64)
        tally, model = Tally(len(rows)), self._model
        if self._last and not model.encoder_only:
            width = model.embedding_size or model.hidden_size
            price = self._products.price(float(model.vocab_size * width / self._plan.tensor), self._output_format, rows)
            launch = np.full(rows.shape, 4 * ggml.LAUNCH_S * self._backend.launch_share)
            tally.add("head", Price(launch, price.compute, price.memory))
        return tally.seconds * self._scales

    def decode_attention(self, group: int, batch: Array, context: Array) -> Array:
        """Price decode attention in all layers of cache group ``group``: the cache is read once."""
        if group >= len(self._mixing):
            return super().decode_attention(group, batch, context)
        seconds = np.asarray(batch, dtype=np.float64) * context * self._read_s(group)
        tally = Tally(len(np.atleast_1d(seconds)))
        tally.add("attention", Price(0.0 * seconds, 0.0 * seconds, seconds), self._mixing[group].layers)
        return tally.seconds * self._attention_scales

    def mixed_attention(
        self, group: int, chunks: Sequence[tuple[int, int]], decodes: int, context_sum: float, longest_context: float
    ) -> tuple[float, float]:
        """Price attention of a step with prompts: scores of all positions, masked or not, go through memory."""
        if group >= len(self._mixing):
            return super().mixed_attention(group, chunks, decodes, context_sum, longest_context)
        mixing = self._mixing[group]
        attention = mixing.attention
        heads = -(-attention.heads // self._plan.tensor)
        seen = sum(_positions(new, prefix) for new, prefix in chunks)
        compute = 4.0 * heads * attention.head_dim * seen / self._products.rate
        memory = self._backend.scores * ggml.IN_MEMORY * heads * seen / self._products.bandwidth
        memory += (context_sum + sum(new + prefix for new, prefix in chunks)) * self._read_s(group)
        compute *= self.correction.compute * self.correction.attention * mixing.layers
        memory *= self.correction.memory * self.correction.attention * mixing.layers
        total = compute + memory
        return total, compute / total if total else 0.0

    def verify_attention(
        self, group: int, chunks: Sequence[tuple[int, int]], decodes: int, context_sum: float, longest_context: float,
        queries: float,
    ) -> tuple[float, float]:  # fmt: skip
        """Price attention as `mixed_attention` does; of several tokens of a sequence each reads the cache."""
        return self.mixed_attention(group, chunks, decodes, context_sum, longest_context)

    def _read_s(self, group: int) -> float:
        """Return the seconds to read one token's keys and values of one layer."""
        attention = self._mixing[group].attention
        if attention.kind == "mla":
            width = float(attention.kv_lora_rank + attention.rope_head_dim)
        else:
            width = 2.0 * kv_heads_of_rank(attention, self._plan.tensor) * attention.head_dim
        return width * self._cache_bytes / self._products.bandwidth

    # -- what to say about it ------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """That the prices come from the data sheet and the source."""
        return self._told

    @property
    def expected_error(self) -> str:
        """No kernel of ggml was measured alone."""
        return "no kernel of llama.cpp was measured; docs/accuracy.md has the errors of whole runs"


def _positions(new: int, prefix: int) -> float:
    """Return the scores of a chunk: each micro-batch sees all up to its own end."""
    total = 0.0
    for start in range(0, new, ggml.MICRO_BATCH):
        size = min(ggml.MICRO_BATCH, new - start)
        total += size * (prefix + start + size)
    return total
