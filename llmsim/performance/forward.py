"""Static batches: one forward pass over sequences, steps that decode, and a whole batch from prompt to last token.

There is no queue and no engine here: what FasterTransformer's, DeepLearningExamples' and MLPerf's offline tables tell.
Padding costs what it costs when its tokens are given as lengths; without padding, give the lengths themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsim.errors import InputError
from llmsim.hardware import Device, Link
from llmsim.model.shape import ModelShape
from llmsim.parallel import Plan, Stage, check
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import KINDS
from llmsim.performance.stage_prices import StagePrices

_PLACE = {kind: index for index, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Spent:
    """What a pass costs: seconds by kind of work, in the order of `llmsim.performance.kinds.KINDS`."""

    seconds: Array

    @property
    def total_s(self) -> float:
        """Seconds of the whole pass."""
        return float(self.seconds.sum())

    def by_operator(self) -> dict[str, float]:
        """Return the seconds of each part of the model that took any; the host's own are under ``none``."""
        return _added(self.seconds, 1)

    def by_resource(self) -> dict[str, float]:
        """Return the seconds of each resource that was used: launch, compute, memory, communication, host."""
        return _added(self.seconds, 0)


@dataclass(frozen=True, slots=True)
class StaticBatch:
    """A batch from its prompts to its last tokens: the first pass, and all steps after it together."""

    prefill: Spent
    decode: Spent
    steps: int

    @property
    def first_token_s(self) -> float:
        """Seconds until the first tokens, or until the end where there are none."""
        return self.prefill.total_s

    @property
    def total_s(self) -> float:
        """Seconds until the last tokens."""
        return self.prefill.total_s + self.decode.total_s

    @property
    def per_token_s(self) -> float | None:
        """Mean seconds of a step after the first, None if there is none."""
        return self.decode.total_s / self.steps if self.steps else None


def one_stage(
    model: ModelShape, device: Device, *, tensor: int = 1, link: Link | None = None, **settings: Any
) -> StagePrices:
    """Return the prices of a whole model on ``tensor`` devices.

    Args:
        model: the model.
        device: the device.
        tensor: devices that share every layer.
        link: between them; None: the one that the device was measured with.
        settings: of `StagePrices`: ``stack``, ``weight_format``, ``cache_format``, ``static_quant``, ``eager``.

    Raises:
        InfeasibleError: the model cannot be cut over so many devices.
    """
    plan = Plan(tensor)
    check(model, plan)
    names = tuple(f"n0.gpu{index}" for index in range(tensor))
    return StagePrices(model, plan, Stage(0, 0, len(model.layers), names, link), device, **settings)


def forward_pass(
    prices: StagePrices, lengths: Sequence[int], *, before: int = 0, rows: int | None = None, host: bool = True
) -> Spent:
    """Price one pass over sequences of these ``lengths``: of an encoder, or the prefill of a decoder.

    Args:
        prices: of the model, all of its layers on one stage.
        lengths: tokens of each sequence, padding included where it is computed.
        before: tokens of each that are in the cache, or in Transformer-XL's memory, already.
        rows: tokens that go through the head; None: one of each sequence.
        host: whether the host's launching counts, where it bounds the pass (eager stacks).

    Raises:
        InputError: there is no sequence, or one is empty.
    """
    if not lengths or min(lengths) < 1:
        raise InputError(f"forward_pass: lengths: each at least 1, and one at least (got {list(lengths)!r})")
    tokens = len(lengths) if prices.prompts_apart else sum(lengths)
    seconds = _fixed(prices, tokens, len(lengths) if rows is None else rows)
    chunks = [(length, before) for length in lengths]
    for group in range(len(prices.windows)):
        spent, share = prices.mixed_attention(group, chunks, 0, 0.0, 0.0)
        seconds[_PLACE["compute", "attention"]] += spent * share
        seconds[_PLACE["memory", "attention"]] += spent * (1 - share)
    return _with_host(prices, seconds[:, None], len(lengths), host)


def decode_steps(prices: StagePrices, batch: int, first_context: int, steps: int, *, host: bool = True) -> Spent:
    """Price ``steps`` steps in which ``batch`` sequences decode, the first of them attending to ``first_context``."""
    if not steps:
        return Spent(np.zeros(len(KINDS)))
    seconds = np.repeat(_fixed(prices, batch, batch)[:, None], steps, axis=1)
    contexts = first_context + np.arange(steps, dtype=np.float64)
    for group, window in enumerate(prices.windows):
        level = contexts if window is None else np.minimum(contexts, window)
        seconds += prices.decode_attention(group, np.full(steps, float(batch)), level)
    return _with_host(prices, seconds, batch, host)


def static_batch(
    prices: StagePrices,
    batch: int,
    prompt: int,
    output: int,
    *,
    lengths: Sequence[int] | None = None,
    host: bool = True,
) -> StaticBatch:
    """Price ``batch`` equal sequences in lockstep: ``prompt`` tokens in, ``output`` tokens out (0: an encoder).

    With ``lengths``, the prompts' own, nothing is computed for padding in the first pass.
    """
    prefill = forward_pass(prices, lengths or [prompt] * batch, host=host)
    steps = max(output - 1, 0)
    return StaticBatch(prefill, decode_steps(prices, batch, prompt + 1, steps, host=host), steps)


def _fixed(prices: StagePrices, tokens: int, rows: int) -> Array:
    """Return what does not depend on contexts: seconds [kinds]."""
    seconds = prices.linear(np.array([float(tokens)]))[:, 0]
    return np.asarray(seconds + prices.head(np.array([float(rows)]))[:, 0])


def _with_host(prices: StagePrices, seconds: Array, sequences: int, host: bool) -> Spent:
    """Return the sum over steps [kinds, steps], with the host's time where it outlasts the device's."""
    total = np.asarray(seconds.sum(axis=1))
    if host and prices.host_bound:
        launching = float(prices.host(np.array([float(sequences)]), np.array([1.0]))[0])
        total[_PLACE["host", "none"]] += np.maximum(launching - seconds.sum(axis=0), 0.0).sum()
    return Spent(total)


def _added(seconds: Array, part: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for kind, value in zip(KINDS, seconds.tolist(), strict=True):
        if value:
            sums[kind[part]] = sums.get(kind[part], 0.0) + value
    return sums
