"""Measured kernels beside the formulas: tables of log(measured / formula), looked up by the sizes of a kernel.

A price is then ``formula x exp(residual)``.  A table belongs to one operator, number format and software stack; its
residuals are interpolated in the logarithms of the sizes, clamped to the sizes that were measured, and 0 where nothing
was measured:

- where one size varies for a given shape (the rows of a product, the tokens of experts, the bytes of a collective), in
  straight lines along it;
- between shapes, and for attention between all sizes, by the nearest points, weighted by the inverse square of their
  distance; a measured point is met exactly.

Source: performance model, section 4 (``formula x residual``).  Residuals are taken against the formula as the benchmark
ran, with weights in the L2 cache, and applied to it as serving runs, with cold weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsim.errors import InputError
from llmsim.performance.kernel_file import KernelRow, formula_seconds, key_of
from llmsim.performance.kernels import Array

if TYPE_CHECKING:
    from llmsim.performance.coefficients import Coefficients

# How many neighbours share in a residual between measured points.
NEIGHBOURS = 8
# Distances to all points of a table are computed for so many sizes at once.
BLOCK = 1024
# A table is held out in this many parts, one after the other, to tell its error.
PARTS = 3

_WORDS = {
    "gemm": "matrix products",
    "attn_prefill": "prefill attention",
    "attn_decode": "decode attention",
    "mla_prefill": "latent prefill attention",
    "mla_decode": "latent decode attention",
    "moe": "experts",
    "all_reduce": "sums over a group",
    "all_gather": "gathering over a group",
}


class Table:
    """Residuals at measured sizes.

    Args:
        shapes: logarithms of the sizes between which neighbours are weighted, [points, sizes].
        along: logarithm of the size along which lines are drawn, [points]; None: there is none.
        residuals: log(measured / formula), [points].
    """

    def __init__(self, shapes: Array, along: Array | None, residuals: Array) -> None:
        self.points = len(residuals)
        self._shapes, place = np.unique(shapes, axis=0, return_inverse=True)
        place = np.asarray(place).reshape(-1)
        self._low, self._high = self._shapes.min(axis=0), self._shapes.max(axis=0)
        self._curves: list[tuple[Array, Array]] = []
        for index in range(len(self._shapes)):
            here = place == index
            if along is None:
                self._curves.append((np.zeros(1), np.array([residuals[here].mean()])))
            else:
                sizes, size_place = np.unique(along[here], return_inverse=True)
                sums = np.bincount(size_place, weights=residuals[here])
                self._curves.append((sizes, sums / np.bincount(size_place)))
        self._flat = np.array([curve[1][0] for curve in self._curves])

    def at(self, shapes: Array) -> Array:
        """Return the residuals at ``shapes`` [n, sizes] of a table without lines: [n]."""
        found = np.empty(len(shapes))
        for start in range(0, len(shapes), BLOCK):
            places, weights = self._neighbours(shapes[start : start + BLOCK])
            found[start : start + BLOCK] = (self._flat[places] * weights).sum(axis=1)
        return found

    def along(self, shape: Array, sizes: Array) -> Array:
        """Return the residuals of one ``shape`` [sizes] at all ``sizes`` [n] (logarithms) of the line's: [n]."""
        places, weights = self._neighbours(np.asarray(shape)[None, :])
        total = np.zeros(np.shape(sizes))
        for place, weight in zip(places[0], weights[0], strict=True):
            if weight:
                total += weight * np.interp(sizes, *self._curves[place])
        return total

    def _neighbours(self, shapes: Array) -> tuple[NDArray[np.intp], Array]:
        """Return the nearest measured shapes of each of ``shapes``, and their weights: [n, neighbours] both."""
        if not self._shapes.shape[1]:
            return np.zeros((len(shapes), 1), dtype=np.intp), np.ones((len(shapes), 1))
        inside = np.clip(shapes, self._low, self._high)
        distance = ((inside[:, None, :] - self._shapes[None, :, :]) ** 2).sum(axis=2)
        count = min(NEIGHBOURS, len(self._shapes))
        # Stable, so that ties do not depend on the machine.
        places = np.argsort(distance, axis=1, kind="stable")[:, :count]
        near = np.take_along_axis(distance, places, axis=1)
        exact = near[:, :1] < 1e-18
        weights = np.where(exact, np.arange(count) == 0, 1.0 / np.maximum(near, 1e-18))
        return places, weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Shown:
    """The errors that one operator has shown on points held out: absolute, in per cent."""

    points: int
    median: float
    p90: float
    median_before: float
    p90_before: float

    def __str__(self) -> str:
        return (
            f"{self.median:.1f} / {self.p90:.1f} % (formula alone {self.median_before:.1f} / {self.p90_before:.1f} %)"
        )


@dataclass(slots=True)
class Residuals:
    """The tables of one device and stack; an empty one leaves all formulas as they are.

    ``shown`` are the held-out errors by operator; ``warnings`` what of the file is not used; ``used`` are the operators
    whose tables were asked for and had an answer.
    """

    source: str = ""
    tables: dict[tuple[str, ...], Table] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tables)

    @property
    def label(self) -> str:
        """The operators that were calibrated: ``kernels.csv: matrix products, experts``."""
        return f"{self.source}: {', '.join(_WORDS.get(name, name) for name in self.used)}"

    @property
    def error(self) -> str:
        """The errors that the tables have shown, held out."""
        return ", ".join(f"{_WORDS.get(name, name)} {shown}" for name, shown in self._used().items())

    def _used(self) -> dict[str, Shown]:
        return {name: self.shown[name] for name in self.used}

    def line(self, operator: str, key: Sequence[object], shape: Sequence[float], sizes: Array) -> Array | float:
        """Return the factors of kernels of one ``shape`` at all ``sizes``; 1 where nothing was measured."""
        table = self.tables.get((operator, *_texts(key)))
        if table is None:
            return 1.0
        self.used[operator] = None
        at = np.log(np.maximum(np.asarray(sizes, dtype=np.float64), 1e-9))
        return np.exp(table.along(np.log(np.array(shape, dtype=np.float64)), at))

    def surface(self, operator: str, key: Sequence[object], fixed: Sequence[float]) -> Callable[..., Array] | None:
        """Return the factors of attention with ``fixed`` heads over its other sizes; None where nothing was measured.

        The function takes arrays of those sizes: batch, new tokens (prefill only), and cached or attended tokens.
        """
        table = self.tables.get((operator, *_texts(key)))
        if table is None:
            return None
        self.used[operator] = None

        def factors(*sizes: Array | float) -> Array:
            arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(size, dtype=np.float64)) for size in sizes))
            columns = [np.full(arrays[0].shape, float(value)) for value in fixed] + list(arrays)
            columns[-1] = columns[-1] + 1.0  # contexts: a prompt has none before it
            return np.exp(table.at(np.log(np.stack(columns, axis=1))))

        return factors


def _texts(key: Sequence[object]) -> list[str]:
    return [f"{part:g}" if isinstance(part, int | float) else str(part) for part in key]


def residuals_of(rows: Sequence[KernelRow], known: Coefficients, source: str) -> Residuals:
    """Return the tables that measured kernels make against the formulas of a device and stack.

    Rows of another stack, of a format that the device has no units for, and of groups or operators without a formula
    are left out, with a warning.

    Raises:
        InputError: no row is of use.
    """
    groups: dict[tuple[str, ...], list[KernelRow]] = {}
    unused: dict[str, int] = {}
    for row in rows:
        rest, reason = key_of(row, known)
        if rest is None:
            unused[reason] = unused.get(reason, 0) + 1
        else:
            groups.setdefault((row.operator, *_texts(rest)), []).append(row)
    found = Residuals(source)
    found.warnings = [f"{source}: {count} rows are not used: {reason}" for reason, count in unused.items()]
    if not groups:
        raise InputError(f"{source}: no row is of use here ({'; '.join(unused) or 'it is empty'})")
    errors: dict[str, list[tuple[Array, Array]]] = {}
    for key, measured in groups.items():
        seconds = formula_seconds(measured, known)
        residual = np.log(np.array([row.seconds for row in measured]) / seconds)
        shapes, along = _coordinates(measured)
        found.tables[key] = Table(shapes, along, residual)
        errors.setdefault(key[0], []).append((residual, _held_out(shapes, along, residual)))
    for operator, parts in errors.items():
        before = np.concatenate([residual for residual, _ in parts])
        after = np.concatenate([residual - guess for residual, guess in parts])
        found.shown[operator] = _shown(before, after)
    return found


def _coordinates(rows: Sequence[KernelRow]) -> tuple[Array, Array | None]:
    """Return the logarithms of the sizes of rows of one operator: shapes [rows, sizes] and the size along a line."""
    shapes = np.log(np.array([row.shape for row in rows], dtype=np.float64).reshape(len(rows), -1))
    if rows[0].along is None:
        return shapes, None
    return shapes, np.log(np.array([row.along for row in rows], dtype=np.float64))


def _held_out(shapes: Array, along: Array | None, residuals: Array) -> Array:
    """Return what the rest of a table says of each of its points: whole shapes are held out, or every third size."""
    names, place = np.unique(shapes, axis=0, return_inverse=True)
    part = np.asarray(place).reshape(-1) % PARTS
    if len(names) < 2 * PARTS and along is not None:
        part = np.unique(along, return_inverse=True)[1].reshape(-1) % PARTS
    guesses = np.zeros(len(residuals))
    for number in range(PARTS):
        out, rest = part == number, part != number
        if not out.any() or not rest.any():
            continue
        table = Table(shapes[rest], None if along is None else along[rest], residuals[rest])
        if along is None:
            guesses[out] = table.at(shapes[out])
        else:
            for index in np.flatnonzero(out):
                guesses[index] = table.along(shapes[index], along[index : index + 1])[0]
    return guesses


def _shown(before: Array, after: Array) -> Shown:
    """Return errors of ``formula / measured - 1`` in per cent from the logarithms of measured / predicted."""
    wrong = [100 * np.abs(np.exp(-values) - 1) for values in (after, before)]
    numbers = [float(np.quantile(values, share)) for values in wrong for share in (0.5, 0.9)]
    return Shown(len(before), *numbers)
