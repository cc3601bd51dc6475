"""The prices of one pipeline stage: its layers composed of kernels, by kind of work, in seconds.

A step of a stage costs ``linear(tokens)``, plus attention for each cache group, plus ``head(rows)`` on the last
stage.  All prices are those of one rank: the ranks of a stage move in lockstep.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmsim.hardware import Device
from llmsim.model.shape import FeedForward, ModelShape
from llmsim.model.weights import cache_groups
from llmsim.parallel import Plan, Stage
from llmsim.performance import formats
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import LAYERS, Coefficients, Known
from llmsim.performance.collectives import Group, send
from llmsim.performance.fits import ExpertsFit, GemmFit
from llmsim.performance.host_work import HostWork
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import KINDS, Tally
from llmsim.performance.operators import ACTIVATION_BYTES, Matrices, Operators, sampler

__all__ = ["KINDS", "StagePrices"]


class StagePrices:
    """What the work of one stage costs on one device and software stack.

    Args:
        model: shape of the whole model.
        plan: how it is cut.
        stage: the layers of this stage and the links of its devices; without a ``collective`` link the one is
            taken that the device was measured with.
        device: the device of every rank.
        stack: vllm, trtllm, sglang, or vllm-2023 (see `Coefficients`).
        weight_format: instead of the model's own, and then for all big matrices.
        cache_format: of the KV cache.
        static_quant: whether activations are quantised inside the kernel before a product of low precision, as
            checkpoints with static scales allow; None: only on the trtllm stack, where the fits of InferenceX
            showed it.
        eager: no CUDA graphs: the host launches every kernel of every step.

    Attributes:
        kinds: what the rows of all arrays stand for.
        windows: the attention window of each cache group of the stage, None for full attention.
        label: which layer of knowledge the prices come from, and from which measured versions.
        expected_error: held-out errors of the kernels that matter most.
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
    ) -> None:
        known = Coefficients(device, stack)
        self.kinds = KINDS
        self._model, self._plan, self._stage, self._known = model, plan, stage, known
        self._first, self._last = stage.first_layer == 0, stage.last_layer == len(model.layers)
        fused = known.stack == "trtllm" if static_quant is None else static_quant
        self._wide = self._matrices(weight_format or model.weight_format, fused=fused)
        as_is = weight_format in (None, model.weight_format)
        own_attention = model.attention_format if as_is else None
        self._attention_wide = self._matrices(own_attention, fused=fused) if own_attention else self._wide
        self._plain = self._matrices("bf16", fused=False)
        self._operators = Operators(known, model.hidden_size, plan.tensor, self._plain)
        layers = model.layers[stage.first_layer : stage.last_layer]
        # Layers of one shape cost the same, whatever their windows: each shape is priced once.
        self._attentions = Counter(replace(layer.attention, window=None, chunked=False) for layer in layers)
        self._blocks = Counter(layer.feed_forward for layer in layers)
        self._experts: Known[ExpertsFit] | None = None
        if any(block.experts for block in self._blocks):
            self._experts = known.experts(self._wide.number.kernel)
        groups = cache_groups(model, stage.first_layer, stage.last_layer)
        self.windows = tuple(group.window for group in groups)
        self._groups = [GroupAttention(known, group, plan.tensor, cache_format) for group in groups]
        nodes = len({name.split(".")[0] for name in stage.devices}) or 1
        self._group = Group(known, plan.tensor, stage.collective, nodes=nodes)
        self._host_work = HostWork(known, stage.layers, eager=eager)
        self.warnings = [*self._format_warnings(), *known.warnings]
        self.label, self.expected_error = self._label(), self._expected_error()

    # -- prices --------------------------------------------------------------------------------------------

    def linear(self, tokens: Array) -> Array:
        """Price all that depends only on the (padded) ``tokens`` of a step: seconds [len(kinds), len(tokens)].

        Products, norms, rotary embedding, activations, experts, collectives, the embedding on the first stage,
        and the send to the next.
        """
        tokens = np.asarray(tokens, dtype=np.float64)
        tally, operators, stage = Tally(len(tokens)), self._operators, self._stage
        rotary = not self._model.position_embeddings
        operators.norms(tally, tokens, 2 * stage.layers)
        for attention, count in self._attentions.items():
            operators.attention(tally, attention, self._attention_wide, tokens, count, rotary=rotary)
        for block, count in self._blocks.items():
            self._add_block(tally, block, tokens, count)
        size = ACTIVATION_BYTES * self._model.hidden_size * tokens
        # One sum behind attention and one behind the feed-forward block; the embedding is cut by vocabulary.
        tally.add_communication(self._group.all_reduce(size), 2 * stage.layers + self._first)
        if self._first:
            operators.embedding(tally, tokens, 2 if self._model.position_embeddings else 1)
        if stage.onward is not None:
            # Hidden states and residual; each rank sends its part, and the next stage gathers them.
            tally.add_communication(send(self._known, stage.onward, 2 * size / self._plan.tensor))
            tally.add_communication(self._group.all_gather(size), 2)
        return tally.seconds

    def head(self, rows: Array) -> Array:
        """Price norm, output matrix and sampler for the sampled ``rows`` of a step: seconds [len(kinds), len(rows)].

        Zeros on every stage but the last.
        """
        rows = np.asarray(rows, dtype=np.float64)
        tally = Tally(len(rows))
        if self._last:
            model = self._model
            self._operators.head(tally, rows, model.vocab_size, model.embedding_size or model.hidden_size)
            tally.add_communication(self._group.all_gather(ACTIVATION_BYTES * model.vocab_size * rows))
            tally.add("sampler", sampler(self._known, rows))
        return tally.seconds

    def decode_attention(self, group: int, batch: Array, context: Array) -> Array:
        """Price decode attention in all layers of cache group ``group``: seconds [len(kinds), n].

        ``batch`` sequences [n] with mean attended length ``context`` [n] tokens, the window already applied.
        """
        price = self._groups[group].decode(batch, context)
        tally = Tally(len(np.atleast_1d(price.memory)))
        tally.add("attention", price, self._groups[group].layers)
        return tally.seconds

    def mixed_attention(
        self, group: int, chunks: Sequence[tuple[int, int]], decodes: int, context_sum: float, longest_context: float
    ) -> tuple[float, float]:
        """Price attention in all layers of a cache group for a step with prefill chunks.

        ``chunks`` are (new tokens, prefix); ``decodes`` sequences beside them attend to ``context_sum`` tokens in
        all and to ``longest_context`` at most, the window already applied.

        Returns:
            seconds, and the share of them that compute bounds (the rest counts as memory).
        """
        return self._groups[group].mixed(chunks, decodes, context_sum, longest_context)

    def host(self, sequences: Array, tokens: Array) -> Array:
        """Return the seconds of host work in a step of ``sequences`` sequences and ``tokens`` tokens."""
        return self._host_work.seconds(sequences, tokens)

    @property
    def host_bound(self) -> bool:
        """Whether host work runs *beside* the device and bounds the step from below (eager stacks)."""
        return self._host_work.bounds

    # -- parts ---------------------------------------------------------------------------------------------

    def _add_block(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        operators = self._operators
        if block.experts and self._experts is not None:
            operators.experts(tally, block, self._experts.fit, self._wide, tokens, count)
        else:
            width, matrices = block.intermediate_size, block.matrices
            operators.feed_forward(tally, width, matrices, self._wide, tokens, count, "feed_forward")

    def _matrices(self, weight_format: str, *, fused: bool) -> Matrices:
        number = formats.weights(weight_format, self._known.device.peak_flops)
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
            parts.append(("experts", self._experts))
        first = self._groups[0]
        parts.append(("prefill attention", first.prefill_known))
        parts.append(("decode attention", first.decode_known))
        return parts

    def _label(self) -> str:
        """Return the weakest layer among the kernels, with their sources: ``fitted (h200_sxm vllm 0.24.0)``."""
        parts = [known for _, known in self._parts()]
        layer = max((known.layer for known in parts), key=LAYERS.index)
        sources = dict.fromkeys(known.source for known in parts)
        group = self._group.layer
        apart = f", collectives: {group}" if self._plan.tensor > 1 and group != layer else ""
        return f"{layer} ({'; '.join(sources)}){apart}"

    def _expected_error(self) -> str:
        said = [f"{name} {known.error}" for name, known in self._parts()]
        if self._plan.tensor > 1:
            said.append(f"collectives {self._group.error}")
        return f"kernel errors (median / p90): {', '.join(said)}"
