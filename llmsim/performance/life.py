"""The life of one request alone on its engine: moments, the seconds that each takes, and on which resource."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmsim.engine_options import EngineOptions
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import KINDS
from llmsim.performance.stage_prices import StagePrices

# Moments in the order in which a step passes them, with what they are called in the books.
MOMENTS = {
    "tokenizing": "tokenizing",
    "embedding": "embedding",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "experts": "experts",
    "collective": "collective",
    "head": "head",
    "sampler": "sampling",
    "none": "host: schedule, detokenize",
}
RESOURCES = ("compute", "memory", "communication", "launch", "host")


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of one phase: seconds by resource, and the clock cycles that pass meanwhile.

    Cycles are those of the device's clock, but for the host's own, which are those of the host.
    """

    phase: str
    name: str
    seconds: dict[str, float]
    cycles: dict[str, float]

    @property
    def total_s(self) -> float:
        """Seconds on all resources together."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Life:
    """The moments of one request, in order; ``hidden_host_s`` is host work that ran under the device's time."""

    prompt_tokens: int
    output_tokens: int
    moments: tuple[Moment, ...]
    hidden_host_s: float
    clock_hz: float
    host_clock_hz: float
    warnings: tuple[str, ...] = field(default=())

    @property
    def total_s(self) -> float:
        """Seconds from the request's arrival to its last token."""
        return sum(moment.total_s for moment in self.moments)

    @property
    def first_token_s(self) -> float:
        """Seconds from the request's arrival to its first token."""
        return sum(moment.total_s for moment in self.moments if moment.phase != "decode")


def life_of(
    stages: Sequence[StagePrices],
    options: EngineOptions,
    *,
    prompt: int,
    output: int,
    tokenize_s: float,
    clock_hz: float,
    host_clock_hz: float,
) -> Life:
    """Price one request of ``prompt`` tokens in and ``output`` out that has its engine to itself.

    The prompt goes in the chunks that the engine's budget makes of it, then one step follows for each further token,
    each stage after the other.  Prefixes are not found, nobody waits.

    Args:
        stages: prices of the stages, in order.
        options: for the budget of a step, the sizes of CUDA graphs, and whether host and device run side by side.
        prompt: tokens of the prompt.
        output: tokens of the answer; an encoder's are ignored.
        tokenize_s: host seconds in which the whole prompt is tokenized.
        clock_hz: of the device.
        host_clock_hz: of the host's cores.
    """
    side_by_side = options.async_scheduling or stages[0].host_bound
    chunk = min(options.max_num_batched_tokens, prompt) if options.enable_chunked_prefill else prompt
    prefill, hidden = np.zeros(len(KINDS)), 0.0
    for before in range(0, prompt, chunk):
        tokens = min(chunk, prompt - before)
        spent = sum(_pass(stage, options, tokens, before, last=before + tokens == prompt) for stage in stages)
        hidden += _with_host(np.asarray(spent)[:, None], stages[0], side_by_side, prefill)
    steps = 0 if options.prefill_only else max(output - 1, 0)
    decode = np.zeros(len(KINDS))
    if steps:
        each = sum(_steps(stage, options, prompt + 1, steps) for stage in stages)
        hidden += _with_host(np.asarray(each), stages[0], side_by_side, decode)
    moments = [Moment("input", MOMENTS["tokenizing"], {"host": tokenize_s}, {"host": tokenize_s * host_clock_hz})]
    for phase, seconds in (("prefill", prefill), ("decode", decode)):
        moments += _moments(phase, seconds, clock_hz, host_clock_hz)
    return Life(prompt, steps + (not options.prefill_only), tuple(moments), hidden, clock_hz, host_clock_hz)


def _pass(stage: StagePrices, options: EngineOptions, tokens: int, before: int, *, last: bool) -> Array:
    """Return the seconds of one chunk on one stage [kinds]; only the last one samples."""
    rows = float(options.padded(1 if stage.prompts_apart else tokens))
    seconds = stage.linear(np.array([rows]))[:, 0]
    if last:
        seconds = seconds + stage.head(np.array([1.0]))[:, 0]
    for group in range(len(stage.windows)):
        spent, share = stage.mixed_attention(group, [(tokens, before)], 0, 0.0, 0.0)
        seconds[KINDS.index(("compute", "attention"))] += spent * share
        seconds[KINDS.index(("memory", "attention"))] += spent * (1 - share)
    return np.asarray(seconds)


def _steps(stage: StagePrices, options: EngineOptions, first: int, steps: int) -> Array:
    """Return the seconds of each step in which one sequence decodes on one stage [kinds, steps]."""
    rows = np.array([float(options.padded(1))])
    seconds = np.repeat(stage.linear(rows) + stage.head(np.array([1.0])), steps, axis=1)
    contexts = first + np.arange(steps, dtype=np.float64)
    for group, window in enumerate(stage.windows):
        level = contexts if window is None else np.minimum(contexts, window)
        seconds += stage.decode_attention(group, np.ones(steps), level)
    return np.asarray(seconds)


def _with_host(seconds: Array, stage: StagePrices, side_by_side: bool, total: Array) -> float:
    """Add steps [kinds, steps] to ``total``, with the host's time that shows; return what did not show."""
    steps = seconds.shape[1]
    host = float(stage.host(np.array([1.0]), np.array([1.0]))[0])
    shown = np.maximum(host - seconds.sum(axis=0), 0.0) if side_by_side else np.full(steps, host)
    total += seconds.sum(axis=1)
    total[KINDS.index(("host", "none"))] += shown.sum()
    return float(steps * host - shown.sum())


def _moments(phase: str, seconds: Array, clock_hz: float, host_clock_hz: float) -> list[Moment]:
    """Return the moments of a phase that take any time, in the order of a step."""
    found: dict[str, dict[str, float]] = {}
    for (resource, operator), value in zip(KINDS, seconds.tolist(), strict=True):
        if value:
            found.setdefault(operator, {})[resource] = value
    return [
        Moment(
            phase,
            MOMENTS[operator],
            found[operator],
            {
                resource: value * (host_clock_hz if resource == "host" else clock_hz)
                for resource, value in found[operator].items()
            },
        )
        for operator in MOMENTS
        if operator in found
    ]
