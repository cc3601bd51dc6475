"""How response time and throughput grow with parameters and length: T = f(P, L), Q = g(P, L), fitted and explained.

Every point is a static batch on equal devices (`llmsim.performance.forward`): prompts of L tokens, then the answers.
A power law ``a x P^p x L^l`` is fitted in logarithms; the exponents of single operators stand beside those that their
operations have in theory.  T and Q are sums of operators with different exponents, so their own exponents are those of
the range that was asked for and of no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsim.errors import InputError
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import parameters, weight_bytes
from llmsim.performance.forward import decode_steps, forward_pass, one_stage, static_batch
from llmsim.performance.kinds import KINDS
from llmsim.performance.stage_prices import StagePrices

if TYPE_CHECKING:
    from pathlib import Path

Floats = NDArray[np.float64]

FAMILY = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b")
LENGTHS = (128, 512, 2048, 8192, 32768)

# Exponents of P and L in operations (prefill) or in bytes that must be read (decode), for a family whose width and
# depth both grow with the cube root of its parameters: P ~ layers x width^2 (Kaplan et al. 2020, section 2.1); one
# token of a product costs its matrix, scores cost layers x width x L for each token (Vaswani et al. 2017, table 1).
THEORY: dict[tuple[str, str], tuple[str, float, float]] = {
    ("prefill", "projections"): ("L P", 1.0, 1.0),
    ("prefill", "scores"): ("L^2 layers width", 2 / 3, 2.0),
    ("prefill", "feed-forward"): ("L P", 1.0, 1.0),
    ("prefill", "embedding"): ("L width", 1 / 3, 1.0),
    ("prefill", "collective"): ("L layers width", 2 / 3, 1.0),
    ("prefill", "head"): ("vocabulary width", 1 / 3, 0.0),
    ("decode", "projections"): ("P", 1.0, 0.0),
    ("decode", "scores"): ("L layers width", 2 / 3, 1.0),
    ("decode", "feed-forward"): ("P", 1.0, 0.0),
    ("decode", "embedding"): ("width", 1 / 3, 0.0),
    ("decode", "collective"): ("layers width", 2 / 3, 0.0),
    ("decode", "head"): ("vocabulary width", 1 / 3, 0.0),
}
# Mixing of tokens by other layers than attention: serial or by chunks, but linear in length.
RECURRENT_THEORY = {"prefill": ("L layers width^2", 1.0, 1.0), "decode": ("layers width^2", 1.0, 0.0)}
_OPERATORS = {
    "attention": "projections", "feed_forward": "feed-forward", "experts": "feed-forward", "embedding": "embedding",
    "collective": "collective", "head": "head",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Law:
    """``scale x P^of_parameters x L^of_length``; ``spread`` is the standard deviation of the logarithms' residuals.

    An exponent is None when only one value of that variable was there.  ``end_of_*`` are the exponents between the two
    largest values of one variable at the largest of the other, where launches and small products count least.
    """

    scale: float
    of_parameters: float | None
    of_length: float | None
    spread: float
    end_of_parameters: float | None = None
    end_of_length: float | None = None

    def value(self, parameters_count: float, length: float) -> float:
        """Return what the law says at a point."""
        return float(self.scale * parameters_count ** (self.of_parameters or 0.0) * length ** (self.of_length or 0.0))


@dataclass(frozen=True, slots=True)
class OperatorLaw:
    """The law of one operator in one phase, beside the theory: a formula and its exponents."""

    phase: str
    operator: str
    law: Law
    formula: str
    of_parameters: float
    of_length: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """Times and throughputs over models and lengths, and the laws that fit them.

    ``first_s``, ``step_s`` and ``response_s`` are seconds of one request alone, ``throughput`` output tokens a second
    of a batch of ``batch``: all [models, lengths].  ``too_large`` names models whose weights do not fit the devices.
    """

    models: tuple[str, ...]
    parameters: tuple[int, ...]
    lengths: tuple[int, ...]
    batch: int
    output: int
    first_s: Floats
    step_s: Floats
    response_s: Floats
    throughput: Floats
    laws: dict[str, Law]
    operators: tuple[OperatorLaw, ...]
    too_large: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "models": dict(zip(self.models, self.parameters, strict=True)),
            "lengths": list(self.lengths),
            "batch": self.batch,
            "output_tokens": self.output,
            **{name: getattr(self, name).tolist() for name in ("first_s", "step_s", "response_s", "throughput")},
            "laws": {name: _plain(law) for name, law in self.laws.items()},
            "operators": [
                {"phase": one.phase, "operator": one.operator, **_plain(one.law), "theory": one.formula,
                 "theory_of_parameters": one.of_parameters, "theory_of_length": one.of_length}
                for one in self.operators
            ],
            "too_large": list(self.too_large),
        }  # fmt: skip


def scaling(
    models: Sequence[ModelShape],
    device: Device,
    *,
    lengths: Sequence[int] = LENGTHS,
    tensor: int = 1,
    batch: int = 16,
    output: int = 128,
    **settings: Any,
) -> Scaling:
    """Return how times and throughputs of ``models`` grow on ``tensor`` devices.

    Args:
        models: a family, or anything else; by parameters.
        device: of all points.
        lengths: tokens of the prompt.
        tensor: devices that share each layer, the same for all models.
        batch: sequences at once, for the throughput.
        output: tokens of each answer.
        settings: of `StagePrices`.

    Raises:
        InputError: fewer than two points to fit.
        InfeasibleError: a model cannot be cut over so many devices.
    """
    if len(models) * len(lengths) < 2 or min(lengths) < 1 or batch < 1 or output < 1:
        raise InputError(
            f"scaling: at least two points of lengths, batch and output above 0 "
            f"(got {len(models)} models, lengths {list(lengths)}, batch {batch}, output {output})"
        )
    models, lengths = sorted(models, key=parameters), sorted(lengths)
    stages = [one_stage(model, device, tensor=tensor, **settings) for model in models]
    counts = np.array([float(parameters(model)) for model in models])
    spans = np.array([float(length) for length in lengths])
    alone = [[static_batch(stage, 1, length, output) for length in lengths] for stage in stages]
    together = [[static_batch(stage, batch, length, output) for length in lengths] for stage in stages]
    first = np.array([[one.first_token_s for one in row] for row in alone])
    whole = np.array([[one.total_s for one in row] for row in alone])
    step = (whole - first) / max(output - 1, 1)
    rate = np.array([[batch * output / one.total_s for one in row] for row in together])
    found = {"first token": first, "step": step, "response time T": whole, "throughput Q": rate}
    laws = {name: fit(counts, spans, values) for name, values in found.items() if values.min() > 0}
    large = [model.name for model in models if weight_bytes(model) > tensor * device.memory_bytes]
    return Scaling(
        tuple(model.name for model in models), tuple(int(count) for count in counts), tuple(lengths), batch, output,
        first, step, whole, rate, laws, tuple(_operators(models, stages, counts, spans, output)), tuple(large),
    )  # fmt: skip


def fit(counts: Floats, lengths: Floats, values: Floats) -> Law:
    """Return the power law through ``values`` [models, lengths] by least squares in logarithms."""
    rows, names = [np.ones(values.size)], []
    for name, points, axis in (("P", counts, 0), ("L", lengths, 1)):
        if len(set(points.tolist())) > 1:
            shape = (-1, 1) if axis == 0 else (1, -1)
            rows.append(np.broadcast_to(np.log(points).reshape(shape), values.shape).ravel())
            names.append(name)
    matrix, logs = np.array(rows).T, np.log(values).ravel()
    solution = np.linalg.lstsq(matrix, logs, rcond=None)[0]
    exponents = dict(zip(names, solution[1:].tolist(), strict=True))
    spread = float(np.std(logs - matrix @ solution))
    ends = {"P": _slope(counts, values[:, -1]), "L": _slope(lengths, values[-1])}
    of = [exponents.get(name) for name in ("P", "L")]
    return Law(float(np.exp(solution[0])), of[0], of[1], spread, ends["P"], ends["L"])


def _slope(points: Floats, values: Floats) -> float | None:
    """Return the exponent between the last two points, None if there are not two."""
    if len(points) < 2 or points[-1] == points[-2]:
        return None
    return float(np.log(values[-1] / values[-2]) / np.log(points[-1] / points[-2]))


def _operators(
    models: Sequence[ModelShape], stages: Sequence[StagePrices], counts: Floats, lengths: Floats, output: int
) -> list[OperatorLaw]:
    """Return the laws of the operators that every model has, prefill first."""
    recurrent = all(not any(layer.attention for layer in model.layers) for model in models)
    laws = []
    for phase in ("prefill", "decode"):
        if phase == "decode" and (output < 2 or any(model.encoder_only for model in models)):
            continue
        table = [[_parts(stage, phase, int(length)) for length in lengths] for stage in stages]
        for operator in dict.fromkeys(name for kind, name in THEORY if kind == phase):
            values = np.array([[one.get(operator, 0.0) for one in row] for row in table])
            if values.min() <= 0:
                continue
            theory = THEORY[phase, operator]
            if operator == "scores" and recurrent:
                theory = RECURRENT_THEORY[phase]
            laws.append(OperatorLaw(phase, operator, fit(counts, lengths, values), *theory))
    return laws


def _parts(stage: StagePrices, phase: str, length: int) -> dict[str, float]:
    """Return the seconds of the operators of a prefill of ``length`` tokens, or of one step behind them."""
    if phase == "prefill":
        spent = forward_pass(stage, [length])
        scores = sum(stage.mixed_attention(group, [(length, 0)], 0, 0.0, 0.0)[0] for group in range(len(stage.windows)))
    else:
        spent = decode_steps(stage, 1, length, 1)
        scores = 0.0
        for group, window in enumerate(stage.windows):
            level = float(length if window is None else min(length, window))
            scores += float(stage.decode_attention(group, np.ones(1), np.array([level])).sum())
    parts: dict[str, float] = {}
    for (_, operator), seconds in zip(KINDS, spent.seconds.tolist(), strict=True):
        name = _OPERATORS.get(operator)
        if name is not None:
            parts[name] = parts.get(name, 0.0) + seconds
    parts["projections"] = max(parts.get("projections", 0.0) - scores, 0.0)
    return {**parts, "scores": scores}


def _plain(law: Law) -> dict[str, float | None]:
    return asdict(law)


def plot(found: Scaling, path: str | Path) -> None:
    """Draw response time over length for each model and throughput over parameters for each length, with the fits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    time, rate = figure.subplots(1, 2)
    lengths, counts = np.array(found.lengths, float), np.array(found.parameters, float)
    for row, name in enumerate(found.models):
        (line,) = time.loglog(lengths, found.response_s[row], "o-", label=name)
        fitted = [found.laws["response time T"].value(counts[row], length) for length in lengths]
        time.loglog(lengths, fitted, "--", color=line.get_color(), linewidth=0.8)
    for column, length in enumerate(found.lengths):
        (line,) = rate.loglog(counts, found.throughput[:, column], "o-", label=f"L = {length:,}")
        fitted = [found.laws["throughput Q"].value(count, float(length)) for count in counts]
        rate.loglog(counts, fitted, "--", color=line.get_color(), linewidth=0.8)
    time.set(xlabel="length L (tokens)", ylabel="response time T (s)", title="T = f(P, L); dashed: fitted")
    rate.set(xlabel="parameters P", ylabel="throughput Q (tokens/s)", title="Q = g(P, L); dashed: fitted")
    for axes in (time, rate):
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.legend(fontsize="small")
    figure.savefig(path)
