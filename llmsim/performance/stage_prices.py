"""The prices of one pipeline stage: its layers composed of kernels, by kind of work, in seconds.

A step of a stage costs ``linear(tokens)``, plus attention for each cache group, plus ``head(rows)`` on the last
stage.  All prices are those of one rank: the ranks of a stage move in lockstep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmsim.hardware import Device
from llmsim.model.shape import FeedForward, Layer, Lstm, ModelShape
from llmsim.model.weights import attention_groups, vocabulary_formats
from llmsim.parallel import Plan, Stage
from llmsim.performance import formats
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import LAYERS, Coefficients, Known
from llmsim.performance.collectives import Group, send
from llmsim.performance.correction import NEUTRAL, StackCorrection
from llmsim.performance.crossing import CrossAttention, EncoderGroup, LocalAttention, RelativeAttention
from llmsim.performance.expert_layers import DEFAULT_EXCHANGE, ExpertLayers
from llmsim.performance.fits import GemmFit
from llmsim.performance.host_work import HostWork
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import KINDS, Tally
from llmsim.performance.operators import ACTIVATION_BYTES, Matrices, Operators, sampler
from llmsim.performance.recurrent import LstmGroup, RecurrentGroup
from llmsim.performance.residuals import Residuals
from llmsim.performance.scales import attention_scales, correction_scales, scaled_attention
from llmsim.performance.unfused import UnfusedAttention, is_unfused, moved, plain_layers

__all__ = ["KINDS", "StagePrices"]

LayerGroup = GroupAttention | RecurrentGroup | LstmGroup | EncoderGroup


def _fused(stack: str, model: ModelShape) -> bool:
    """Return whether activations are taken to be quantised inside the kernel before a product.

    On trtllm always, for the checkpoints of InferenceX showed it; elsewhere where the checkpoint brings static scales.
    Not on vllm, which had the same checkpoints and is priced better with a kernel for it (performance model, 0).
    """
    return stack == "trtllm" or (model.static_scales and not stack.startswith("vllm"))


class StagePrices:
    """What the work of one stage costs on one device and software stack.

    Args:
        model: shape of the whole model.
        plan: how it is cut.
        stage: the layers of this stage and the links of its devices; without a ``collective`` link the one is
            taken that the device was measured with.
        device: the device of every rank.
        stack: vllm, trtllm, sglang, vllm-2023, vllm-paged, fastgen (see `Coefficients`).
        weight_format: instead of the model's own, and then for all big matrices.
        cache_format: of the KV cache.
        static_quant: whether activations are quantised inside the kernel before a product of low precision, as
            checkpoints with static scales allow; None: see `_fused`.
        eager: no CUDA graphs: the host launches every kernel of every step.
        correction: the stack's own numbers, see `llmsim.performance.correction`.
        residuals: tables of measured kernels of this device and stack that correct the formulas.
        exchange: how tokens come to the experts of other ranks (`llmsim.performance.expert_layers.EXCHANGES`).

    Attributes:
        kinds: what the rows of all arrays stand for.
        windows: the attention window of each group of the stage, None for full attention, and for groups that do
            not look back (encoders, recurrent layers).
        prompts_apart: whether prompts pass an encoder instead of the layers, so that ``linear`` takes one token for
            each prompt of a step.
        micro_batch: tokens of the batches into which a prompt is cut, which the stages of a pipeline pass one behind
            the other; None: it stays whole.
        label: which layer of knowledge the prices come from, and from which measured versions.
        expected_error: held-out errors of the kernels that matter most.
        calibrated: whether measured kernels correct the formulas.
        warnings: every place where the constants are not this device's on this stack.
    """

    def __init__(
        self,
        model: ModelShape,
        plan: Plan,
        stage: Stage,
        device: Device,
        *,
        stack: str = "vllm",
        weight_format: str | None = None,
        cache_format: str = "bf16",
        static_quant: bool | None = None,
        eager: bool = False,
        correction: StackCorrection = NEUTRAL,
        residuals: Residuals | None = None,
        exchange: str = DEFAULT_EXCHANGE,
    ) -> None:
        known = Coefficients(device, stack)
        known.residuals = residuals
        self.kinds = KINDS
        self._model, self._plan, self._stage, self._known = model, plan, stage, known
        self._first, self._last = stage.first_layer == 0, stage.last_layer == len(model.layers)
        fused = _fused(known.stack, model) if static_quant is None else static_quant
        self._wide = self._matrices(weight_format or model.weight_format, fused=fused)
        as_is = weight_format in (None, model.weight_format)
        own_attention = model.attention_format if as_is else None
        self._attention_wide = self._matrices(own_attention, fused=fused) if own_attention else self._wide
        self._plain = self._matrices("bf16", fused=False)
        output = vocabulary_formats("bf16", weight_format or model.weight_format)[1]
        self._output = self._plain if output == "bf16" else self._matrices(output, fused=False)
        self._operators = Operators(known, model.hidden_size, plan.tensor, self._plain)
        self.correction = correction
        layers = model.layers[stage.first_layer : stage.last_layer]
        self._count(layers)
        self.prompts_apart = bool(model.encoder)
        self.micro_batch: int | None = None
        self._groups = self._layer_groups(layers, cache_format, stack=stack, weight_format=weight_format)
        self.windows = tuple(None if group.bidirectional else group.window for group in self._groups)
        self._group, self._experts = self._groups_of_devices(exchange)
        self.host_layers = plain_layers(layers) if correction.unfused else float(stage.layers)
        self._host_work = HostWork(known, self.host_layers, eager=eager, correction=correction)
        self._scales = correction_scales(correction)
        self._attention_scales = attention_scales(correction)
        self.warnings = [*self._format_warnings(), *known.warnings, *(self._experts.warnings if self._experts else ())]

    def _count(self, layers: Sequence[Layer]) -> None:
        """Count what the layers are made of: parts of one shape cost the same, and each shape is priced once."""
        self._attentions = Counter(
            replace(layer.attention, window=None, chunked=False) for layer in layers if layer.attention is not None
        )
        self._blocks = Counter(layer.feed_forward for layer in layers if layer.feed_forward is not None)
        self._recurrents = Counter(layer.recurrent for layer in layers if layer.recurrent is not None)
        self._crosses = Counter(layer.cross for layer in layers if layer.cross is not None)
        # Each part has a norm before or behind it and is summed over the group; parallel parts share both.
        counted = (self._attentions, self._blocks, self._recurrents, self._crosses)
        self._parts_count = sum(sum(counter.values()) for counter in counted) - sum(layer.parallel for layer in layers)

    def _groups_of_devices(self, exchange: str) -> tuple[Group, ExpertLayers | None]:
        """Return the devices that share every matrix, and the experts on all devices of the stage."""
        known, plan, stage = self._known, self._plan, self._stage
        nodes = len({name.split(".")[0] for name in stage.devices}) or 1
        if plan.data == 1:
            tensor = whole = Group(known, plan.tensor, stage.collective, nodes=nodes)
        else:
            copy_nodes = len({name.split(".")[0] for name in stage.devices[: plan.tensor]}) or 1
            tensor = Group(known, plan.tensor, stage.inner, nodes=copy_nodes)
            whole = Group(known, plan.group, stage.collective, nodes=nodes)
        if not any(block.experts for block in self._blocks):
            return tensor, None
        fit = known.experts(self._wide.number.kernel)
        costs = self.correction.experts, self.correction.unpacking
        return tensor, ExpertLayers(known, fit, plan, self._operators, self._wide, whole, exchange, *costs)

    def _layer_groups(
        self, layers: Sequence[Layer], cache_format: str, *, stack: str, weight_format: str | None
    ) -> list[LayerGroup]:
        """Return what prices the mixing of tokens: attention by window, recurrent layers, the encoder's pass."""
        known, tensor = self._known, self._plan.tensor
        matrices, unfused, shares = self._attention_wide, self.correction.unfused, self.correction.shares
        groups: list[LayerGroup] = []
        for group in attention_groups([layer.attention or layer.cross for layer in layers]):
            if group.attention.memory:
                groups.append(RelativeAttention(known, group, tensor, cache_format, self._operators, matrices, unfused))
            elif group.attention.bidirectional and group.window is not None:
                groups.append(LocalAttention(known, group, tensor, cache_format, matrices, unfused))
            elif self._model.encoder:
                groups.append(CrossAttention(known, group, tensor, cache_format, 2 if self._attentions else 1))
            elif unfused is not None and is_unfused(group.attention, unfused, matrices):
                groups.append(UnfusedAttention(known, group, tensor, cache_format, unfused, matrices, shares))
            else:
                longest = self._model.max_model_len
                groups.append(GroupAttention(known, group, tensor, cache_format, longest, shares))
        for block, count in self._recurrents.items():
            if isinstance(block, Lstm):
                groups.append(LstmGroup(known, block, count, tensor, self._wide))
            else:
                groups.append(RecurrentGroup(known, block, count, tensor))
        if self._model.encoder and self._first:
            encoder = self._encoder_prices(stack, weight_format)
            groups.append(EncoderGroup(encoder, self._operators, self._wide, self._model.layers, tensor))
        return groups

    def _encoder_prices(self, stack: str, weight_format: str | None) -> StagePrices:
        model = replace(
            self._model, layers=self._model.encoder, encoder=(), encoder_only=True, tied_embeddings=False, pooled=False
        )
        stage = replace(self._stage, first_layer=0, last_layer=len(model.layers), onward=None)
        return StagePrices(
            model, self._plan, stage, self._known.device, stack=stack, weight_format=weight_format,
            residuals=self._known.residuals, correction=StackCorrection(unfused=self.correction.unfused),
        )  # fmt: skip

    @property
    def hidden_size(self) -> int:
        """Elements of a token between layers."""
        return self._model.hidden_size

    # -- prices --------------------------------------------------------------------------------------------

    def linear(self, tokens: Array) -> Array:
        """Price all that depends only on the (padded) ``tokens`` of a step: seconds [len(kinds), len(tokens)].

        Products, norms, rotary embedding, activations, experts, collectives, the embedding on the first stage,
        and the send to the next.  With attention data parallelism: where every rank has as many tokens.
        """
        tokens = np.asarray(tokens, dtype=np.float64)
        rank = self.rank_linear(tokens)
        return rank if self._plan.data == 1 else rank + self.shared_linear(self._plan.data * tokens)

    def rank_linear(self, tokens: Array) -> Array:
        """Price what a rank does for its own ``tokens``; without attention data parallelism that is all."""
        tokens = np.asarray(tokens, dtype=np.float64)
        tally, operators, stage = Tally(len(tokens)), self._operators, self._stage
        rotary = self._model.rotary and not self._model.position_embeddings
        operators.norms(tally, tokens, self._parts_count)
        if self.correction.unfused is not None:
            hidden = self.correction.unfused.elements * self._model.hidden_size / self._plan.tensor
            # Keys and values of a second kind, for global tokens, are moved as often as the first.
            hidden *= 2 if any(attention.global_tokens for attention in self._attentions) else 1
            tally.add("attention", moved(self._known, hidden, tokens, self._wide), stage.layers)
        for attention, count in self._attentions.items():
            operators.attention(tally, attention, self._attention_wide, tokens, count, rotary=rotary)
        for attention, count in self._crosses.items():
            operators.cross(tally, attention, self._attention_wide, tokens, count)
        for recurrent, count in self._recurrents.items():
            operators.recurrent(tally, recurrent, self._wide, tokens, count)
        for block, count in self._blocks.items():
            self._add_block(tally, block, tokens, count)
        size = ACTIVATION_BYTES * self._model.hidden_size * tokens
        # One sum behind each part, attention or feed-forward block; the embedding is cut by vocabulary.
        tally.add_communication(self._group.all_reduce(size), self._parts_count + self._first)
        if self._first:
            operators.embedding(tally, tokens, 2 if self._model.position_embeddings else 1)
        if stage.onward is not None:
            # Hidden states and residual; each rank sends its part, and the next stage gathers them.
            tally.add_communication(send(self._known, stage.onward, 2 * size / self._plan.tensor))
            tally.add_communication(self._group.all_gather(size), 2)
        return tally.seconds * self._scales

    def shared_linear(self, tokens: Array) -> Array:
        """Price what the ranks of attention do together for ``tokens`` tokens of all of them: the routed experts."""
        tokens = np.asarray(tokens, dtype=np.float64)
        tally = Tally(len(tokens))
        if self._plan.data > 1 and self._experts is not None:
            for block, count in self._blocks.items():
                if block.experts:
                    self._experts.add(tally, block, tokens, count)
                    self._experts.add_gathering(tally, block, tokens, count)
        return tally.seconds * self._scales

    def head(self, rows: Array) -> Array:
        """Price norm, output matrix and sampler for the sampled ``rows`` of a step: seconds [len(kinds), len(rows)].

        Zeros on every stage but the last.
        """
        rows = np.asarray(rows, dtype=np.float64)
        tally = Tally(len(rows))
        model = self._model
        if self._last and model.encoder_only:
            if model.pooled:
                self._operators.pooler(tally, rows)
        elif self._last:
            width = model.embedding_size or model.hidden_size
            self._operators.head(tally, rows, model.vocab_size, width, self._output)
            tally.add_communication(self._group.all_gather(ACTIVATION_BYTES * model.vocab_size * rows))
            tally.add("sampler", sampler(self._known, rows))
        return tally.seconds * self._scales

    def decode_attention(self, group: int, batch: Array, context: Array) -> Array:
        """Price decode attention in all layers of cache group ``group``: seconds [len(kinds), n].

        ``batch`` sequences [n] with mean attended length ``context`` [n] tokens, the window already applied.
        """
        price = self._groups[group].decode(batch, context)
        tally = Tally(len(np.atleast_1d(price.memory)))
        tally.add("attention", price, self._groups[group].layers)
        return tally.seconds * self._attention_scales

    def mixed_attention(
        self, group: int, chunks: Sequence[tuple[int, int]], decodes: int, context_sum: float, longest_context: float
    ) -> tuple[float, float]:
        """Price attention in all layers of a cache group for a step with prefill chunks.

        ``chunks`` are (new tokens, prefix); ``decodes`` sequences beside them attend to ``context_sum`` tokens in
        all and to ``longest_context`` at most, the window already applied.

        Returns:
            seconds, and the share of them that compute bounds (the rest counts as memory).
        """
        seconds, compute = self._groups[group].mixed(chunks, decodes, context_sum, longest_context)
        return scaled_attention(self.correction, seconds, compute)

    def verify_attention(
        self,
        group: int,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest_context: float,
        queries: float,
    ) -> tuple[float, float]:
        """Price attention as `mixed_attention` does, where each decoding sequence has ``queries`` tokens on average.

        The cache is read once for all tokens of a sequence; their dot products add up, but for the padding of a
        single token's tile (performance model 2.3: query heads that share a KV head share a tile).
        """
        seconds, compute = self._groups[group].mixed(chunks, decodes, context_sum, longest_context, queries)
        return scaled_attention(self.correction, seconds, compute)

    def host(self, sequences: Array, tokens: Array) -> Array:
        """Return the seconds of host work in a step of ``sequences`` sequences and ``tokens`` tokens."""
        return self._host_work.seconds(sequences, tokens)

    @property
    def host_table_us(self) -> tuple[float, float, float]:
        """Microseconds of the host a step, a layer and a sequence, without what a stack's own numbers say."""
        return self._host_work.table_us

    @property
    def unpacked_experts(self) -> bool:
        """Whether there are experts here whose weights are unpacked to 16 bit before the product."""
        return self._experts is not None and self._experts.unpacked

    @property
    def host_bound(self) -> bool:
        """Whether host work runs *beside* the device and bounds the step from below (eager stacks)."""
        return self._host_work.bounds

    # -- parts ---------------------------------------------------------------------------------------------

    def _add_block(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        operators = self._operators
        if block.experts and self._experts is not None:
            if self._plan.data == 1:
                self._experts.add(tally, block, tokens, count)
            self._experts.add_sending(tally, block, tokens, count)
            operators.beside_experts(tally, block, self._wide, tokens, count)
        else:
            width, matrices = block.intermediate_size, block.matrices
            operators.feed_forward(tally, width, matrices, self._wide, tokens, count, "feed_forward")

    def _matrices(self, weight_format: str, *, fused: bool) -> Matrices:
        number = formats.weights(weight_format, self._known.chip.flops)
        known: Known[GemmFit] = (self._known.fused_gemm if fused else self._known.gemm)(number.kernel)
        return Matrices(known, number)

    # -- what to say about it ------------------------------------------------------------------------------

    def _format_warnings(self) -> list[str]:
        numbers = [self._wide.number, self._attention_wide.number, *(group.number for group in self._groups)]
        said = [number.warning for number in numbers if number.warning]
        return list(dict.fromkeys(said))

    def _parts(self) -> list[tuple[str, Known[object]]]:
        """Return the constants that carry most of the time, by name."""
        parts: list[tuple[str, Known[object]]] = [("matrix products", self._wide.known)]
        if self._experts is not None:
            parts.append(("experts", self._experts.fit))
        for group in self._groups[:1]:
            if isinstance(group, GroupAttention):
                parts.append(("prefill attention", group.prefill_known))
                if not group.bidirectional:
                    parts.append(("decode attention", group.decode_known))
        return parts

    @property
    def calibrated(self) -> bool:
        """Whether measured kernels correct any of the prices that were asked for so far."""
        return bool(self._known.residuals and self._known.residuals.used)

    @property
    def label(self) -> str:
        """The weakest layer among the kernels, with their sources: ``fitted (h200_sxm vllm 0.24.0)``."""
        parts = [known for _, known in self._parts()]
        layer = max((known.layer for known in parts), key=LAYERS.index)
        sources = dict.fromkeys(known.source for known in parts)
        group = self._group.layer
        apart = f", collectives: {group}" if self._plan.tensor > 1 and group != layer else ""
        told = f"{layer} ({'; '.join(sources)}){apart}"
        residuals = self._known.residuals
        return f"calibrated ({residuals.label}) over {told}" if residuals and residuals.used else told

    @property
    def expected_error(self) -> str:
        """The errors that the kernels have shown on what was held out of their fits, and of the calibration."""
        said = [f"{name} {known.error}" for name, known in self._parts()]
        if self._plan.tensor > 1:
            said.append(f"collectives {self._group.error}")
        told = f"kernel errors (median / p90): {', '.join(said)}"
        residuals = self._known.residuals
        return f"{told}; held out of the calibration: {residuals.error}" if residuals and residuals.used else told
