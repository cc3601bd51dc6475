"""Files of measured kernels: which columns a row has, and what the formulas say of the same kernel.

A file is a CSV with a header; lines that begin with ``#`` are comments.  ``op`` names the operator, ``latency_us`` (or
``seconds``) is what was measured, sizes are those of one device:

- ``gemm``: m, n, k, dtype;
- ``attn_prefill``, ``attn_decode``: batch, ctx (cached before the chunk, or attended), heads, kv_heads, head_dim,
  kv_dtype, and for prefill q_len; ``mla_prefill``, ``mla_decode``: the same, but for kv_heads and head_dim;
- ``moe``: tokens, hidden, inter, topk, experts, tp, ep, dtype, and dist (``balanced`` or anything else);
- ``all_reduce``, ``all_gather``: n_gpus, bytes (of the full buffer), and backend (nccl, or vllm's own kernel).

``backend`` of the other operators is the software stack; rows without one are taken for any.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmsim.errors import InputError, LlmsimError
from llmsim.performance import formats, kernels
from llmsim.performance.kernels import Array

if TYPE_CHECKING:
    from llmsim.performance.coefficients import Coefficients

_PREFILL, _DECODE = ("heads", "kv_heads", "batch", "q_len", "ctx"), ("heads", "kv_heads", "batch", "ctx")
# operator -> sizes between which neighbours are weighted, the size along which lines are drawn.
SIZES: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "gemm": (("n", "k"), "m"),
    "attn_prefill": (_PREFILL, None),
    "attn_decode": (_DECODE, None),
    "mla_prefill": (("heads", "batch", "q_len", "ctx"), None),
    "mla_decode": (("heads", "batch", "ctx"), None),
    "moe": ((), "tokens"),
    "all_reduce": ((), "bytes"),
    "all_gather": ((), "bytes"),
}
# What else a row must have: numbers, and words.
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "attn_prefill": ("head_dim",),
    "attn_decode": ("head_dim",),
    "moe": ("hidden", "inter", "topk", "experts", "tp", "ep"),
    "all_reduce": ("n_gpus",),
    "all_gather": ("n_gpus",),
}
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("dtype",), "attn_prefill": ("kv_dtype",), "attn_decode": ("kv_dtype",), "mla_prefill": ("kv_dtype",),
    "mla_decode": ("kv_dtype",), "moe": ("dtype",),
}  # fmt: skip
_HALF = {"bf16": "bfloat16", "fp16": "bfloat16", "float16": "bfloat16", "half": "bfloat16"}
_COLLECTIVES = ("all_reduce", "all_gather")
# Operators that others' files have and no price of ours looks up.
_UNPRICED = ("reduce_scatter", "alltoall")


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One measured kernel: ``shape`` and ``along`` are the sizes of `SIZES`, ``numbers`` and ``texts`` the rest."""

    operator: str
    shape: tuple[float, ...]
    along: float | None
    numbers: tuple[float, ...]
    texts: tuple[str, ...]
    backend: str
    balanced: bool
    seconds: float


def read_kernels(path: str | Path) -> list[KernelRow]:
    """Return the measured kernels in a file; operators that are never looked up are passed over.

    Raises:
        InputError: the file cannot be read, or a row is broken; the message names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise InputError(f"{path}: no rows")
    header = next(csv.reader([numbered[0][1]]))
    if "op" not in header or not {"latency_us", "seconds"} & set(header):
        raise InputError(f"{path}: not a file of measured kernels\nhint: columns op and latency_us, or seconds")
    rows = []
    for number, line in numbered[1:]:
        values = dict(zip(header, next(csv.reader([line])), strict=False))
        row = _row(f"{path}:{number}", values)
        if row is not None:
            rows.append(row)
    return rows


def _row(where: str, values: Mapping[str, str]) -> KernelRow | None:
    operator = values.get("op", "")
    if operator in _UNPRICED:
        return None
    if operator not in SIZES:
        raise InputError(f"{where}: op: unknown operator (got {operator!r})\nhint: one of {', '.join(SIZES)}")
    across, along = SIZES[operator]
    number = partial(_number, where, values)
    seconds = number("seconds") if values.get("seconds") else number("latency_us") * 1e-6
    texts = tuple(values.get(name, "") for name in _TEXTS.get(operator, ()))
    if not all(texts):
        raise InputError(f"{where}: {' or '.join(_TEXTS[operator])}: missing")
    shape = tuple(number(name) + (name == "ctx") for name in across)  # contexts may be 0, and have a logarithm
    return KernelRow(
        operator,
        shape,
        number(along) if along else None,
        tuple(number(name) for name in _NUMBERS.get(operator, ())),
        tuple(_HALF.get(text, text) for text in texts),
        values.get("backend", ""),
        values.get("dist", "balanced") == "balanced",
        seconds,
    )


def _number(where: str, values: Mapping[str, str], name: str) -> float:
    text = values.get(name) or ""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {name}: not a number (got {text!r})") from None
    if not math.isfinite(value) or value < 0 or (value == 0 and name != "ctx"):
        raise InputError(f"{where}: {name}: not a positive number (got {text!r})")
    return value


def key_of(row: KernelRow, known: "Coefficients") -> tuple[tuple[object, ...] | None, str]:
    """Return the table that a row belongs to, after its operator; or None, and why no price looks there."""
    if row.operator in _COLLECTIVES:
        library, ranks = row.backend or "nccl", int(row.numbers[0])
        if known.collective(library, row.operator, ranks) is None:
            return None, f"no formula of {library} {row.operator} over {ranks} devices for {known.device.name}"
        return (library, ranks), ""
    if row.backend and row.backend != known.stack:
        return None, f"of {row.backend}, not of {known.stack}"
    if row.operator in ("gemm", "moe"):
        try:
            number = formats.weights(_format(row.texts[0]), known.chip.flops)
        except LlmsimError:
            return None, f"unknown format {row.texts[0]}"
        if number.kernel != row.texts[0]:
            return None, f"{known.device.name} has no units of {row.texts[0]}"
    # Experts are looked up by the whole model and cut; heads of another width have another table.
    return (*row.texts, *row.numbers), ""


def _format(kernel: str) -> str:
    return "bf16" if kernel == "bfloat16" else kernel


def formula_seconds(rows: Sequence[KernelRow], known: "Coefficients") -> Array:
    """Return what the formulas say of rows of one table: seconds [rows]."""
    return np.array([_formula(row, known) for row in rows])


def _formula(row: KernelRow, known: "Coefficients") -> float:
    chip = known.chip
    if row.operator == "gemm":
        number = formats.weights(_format(row.texts[0]), chip.flops)
        n, k = row.shape
        fit = known.gemm(row.texts[0]).fit
        price = kernels.gemm(
            fit, chip, row.along or 0.0, n, k, compute=number.compute, weight_bytes=number.weight_bytes,
            activation_bytes=number.activation_bytes, cold=False,
        )  # fmt: skip
        return float(price.total)
    if row.operator == "moe":
        return _experts(row, known)
    if row.operator in _COLLECTIVES:
        library, ranks = row.backend or "nccl", int(row.numbers[0])
        way = known.collective(library, row.operator, ranks)
        assert way is not None
        return float(kernels.collective(way.fit, row.operator, ranks, row.along or 0.0, one_shot=library != "nccl"))
    return _attention(row, known)


def _experts(row: KernelRow, known: "Coefficients") -> float:
    hidden, inter, topk, experts, tp, ep = row.numbers
    number = formats.weights(_format(row.texts[0]), known.chip.flops)
    price = kernels.experts(
        known.experts(row.texts[0]).fit, known.chip, row.along or 0.0, int(hidden), int(inter), int(topk), int(experts),
        tp=tp, ep=ep, compute=number.compute, weight_bytes=number.weight_bytes, balanced=row.balanced,
    )  # fmt: skip
    return float(price.total)


def _attention(row: KernelRow, known: "Coefficients") -> float:
    chip, kernel = known.chip, row.texts[0]
    cache_bytes = 1.0 if kernel == "fp8" else 2.0
    *sizes, context = row.shape
    context -= 1.0  # contexts are counted from 1, for their logarithm
    if row.operator == "mla_prefill":
        heads, batch, new = sizes
        fit = known.latent_prefill(kernel).fit
        return float(
            kernels.latent_prefill_attention(
                fit, chip, batch, new, heads, prefix=context, cache_bytes=cache_bytes
            ).total
        )
    if row.operator == "mla_decode":
        heads, batch = sizes
        latent = known.latent_decode(kernel).fit
        return float(
            kernels.latent_decode_attention(latent, chip, batch, context, heads, cache_bytes=cache_bytes).total
        )
    head_dim = int(row.numbers[0])
    if row.operator == "attn_prefill":
        heads, kv_heads, batch, new = sizes
        prefill = known.prefill(kernel).fit
        return float(
            kernels.prefill_attention(
                prefill, chip, batch, new, heads, kv_heads, head_dim, prefix=context, cache_bytes=cache_bytes
            ).total
        )
    heads, kv_heads, batch = sizes
    decode = known.decode(kernel, grouped=heads > kv_heads).fit
    return float(
        kernels.decode_attention(
            decode, chip, batch, context, heads, kv_heads, head_dim, cache_bytes=cache_bytes, cold=False
        ).total
    )
