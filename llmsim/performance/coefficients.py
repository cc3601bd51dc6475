"""Which constants price a kernel, and how far to trust them: the layers of knowledge.

1. *fitted*: the constants of this device on this software stack;
2. *other stack*: this device on the nearest stack that was measured;
3. *sibling device*: the constants of a device of the same chip, applied to this one's data sheet;
4. *data sheet*: medians over all fitted devices, applied to the device's data sheet.

Every answer says which layer it comes from and what error was measured there.  Nothing falls back in silence:
`Coefficients.warnings` collects a line for each answer that is not of the first layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmsim import catalog
from llmsim.errors import CatalogError
from llmsim.hardware import Device
from llmsim.performance.fits import (
    Chip,
    CollectiveFit,
    DecodeFit,
    ExchangeFit,
    ExpertsFit,
    GemmFit,
    LatentDecodeFit,
    MaskedFit,
    MixedFit,
    PagedFit,
    PrefillFit,
    StreamFit,
)

if TYPE_CHECKING:
    from llmsim.performance.residuals import Residuals

Fit = TypeVar("Fit")
AnyFit = TypeVar("AnyFit", covariant=True)
Row = Mapping[str, Any]

FOLDER = "hardware/performance"
FITTED, OTHER_STACK, SIBLING, DATA_SHEET = "fitted", "other stack", "sibling device", "data sheet"
LAYERS = (FITTED, OTHER_STACK, SIBLING, DATA_SHEET)  # most trusted first

# A stack's own fit with a larger median error than this (per cent) is worse than another stack's good one:
# the kernel's step heuristics defeated the formula, and its constants lie at the bounds of the fit.
UNUSABLE = 25.0
# The lower bound of the fits of experts.
LEAST_BANDWIDTH_SHARE = 0.2

# Which tables to try, nearest first.  vidur is the vLLM of 2023; vllm-paged decodes by PagedAttention,
# fastgen (DeepSpeed) by a kernel that reads as much.
NEAREST: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm", "trtllm", "sglang", "vidur"),
    "trtllm": ("trtllm", "vllm", "sglang", "vidur"),
    "sglang": ("sglang", "vllm", "trtllm", "vidur"),
    "vllm-2023": ("vidur", "vllm", "trtllm", "sglang"),
    "vllm-paged": ("vllm", "trtllm", "sglang", "vidur"),
    "fastgen": ("vllm", "trtllm", "sglang", "vidur"),
}

# What 16-bit matrix products run at on a device whose data sheet knows no bf16.
HALF = ("bf16", "fp16", "tf32", "fp32", "fp64")


@dataclass(frozen=True, slots=True)
class Known(Generic[AnyFit]):
    """Constants with where they come from.

    ``layer`` is one of `LAYERS`; ``source`` names table and version; ``error`` is the held-out absolute
    percentage error, median and p90, as text.
    """

    fit: AnyFit
    layer: str
    source: str
    error: str


class Coefficients:
    """All constants for one device and software stack, e.g. ``Coefficients(load_device("h100-sxm"), "vllm")``.

    ``stack`` is vllm, trtllm, sglang, vllm-2023, vllm-paged or fastgen, with an optional ``@version``, only quoted.

    ``residuals`` are tables of measured kernels that correct the formulas, if somebody sets them.

    Raises:
        CatalogError: the device names a file of fitted constants that does not exist.
    """

    def __init__(self, device: Device, stack: str = "vllm") -> None:
        self.device = device
        self.warnings: list[str] = []
        self.stack = stack.split("@")[0].lower()
        if self.stack not in NEAREST:
            self._warn(f"software stack {self.stack!r} was never measured: priced as vllm")
        self._order = NEAREST.get(self.stack, NEAREST["vllm"])
        self._own: Mapping[str, Any] = _tables(device.performance) if device.performance else {}
        if not device.performance:
            self._warn(f"device {device.name}: no kernel was ever measured, priced from its data sheet")
        measured = str(self._own.get("fitted_with", {}).get("device", device.name))
        self._sibling = measured != device.name
        if self._sibling:
            self._warn(f"device {device.name}: priced by the kernels of {measured}, scaled by the data sheet")
        self._default = _tables("default")
        self._kind = "cpu" if device.kind == "cpu" else "any"
        self.chip = self._chip()
        self.residuals: Residuals | None = None

    def gemm(self, kernel: str) -> Known[GemmFit]:
        """Return the constants of matrix products: ``kernel`` is bfloat16, fp8, fp8_block or nvfp4."""
        return self._find("gemm", kernel, GemmFit, ())

    def fused_gemm(self, kernel: str) -> Known[GemmFit]:
        """Return those of a product whose activations the kernel before has quantised already.

        The tables of low precision include a quantisation kernel of their own, which checkpoints with static
        scales do not run: the launch terms are those of the bf16 product, and no bytes are quantised.
        """
        known = self.gemm(kernel)
        if kernel == "bfloat16":
            return known
        plain = self.gemm("bfloat16").fit
        values = {field.name: getattr(known.fit, field.name) for field in fields(GemmFit)}
        values.update(t0_us=plain.t0_us, tk_us=plain.tk_us, ks=plain.ks, qb=0.0)
        return Known(GemmFit(**values), known.layer, f"{known.source}, static scales", known.error)

    def prefill(self, cache_kernel: str) -> Known[PrefillFit]:
        """Return the constants of prefill attention over a bfloat16 or fp8 cache."""
        return self._find("attn_prefill", f"hd128_kv{cache_kernel}", PrefillFit, ("hd128_kvbfloat16",))

    def decode(self, cache_kernel: str, *, grouped: bool) -> Known[DecodeFit]:
        """Return the constants of decode attention; ``grouped`` when several query heads share a KV head."""
        form = "gqa" if grouped else "mha"
        key, plain = f"hd128_kv{cache_kernel}", "hd128_kvbfloat16"
        return self._find("attn_decode", key, DecodeFit, (plain,), suffix=f"_{form}")

    def paged(self) -> PagedFit | None:
        """Return the constants of decode kernels that read the cache for each query head, on stacks that have them."""
        row = self._row(self._default, "attn_paged", self.stack)
        return None if row is None else _make(PagedFit, row)

    def masked(self) -> MaskedFit:
        """Return the constants of masked multi-head attention, which TensorRT-LLM decoded by in its first year."""
        return _make(MaskedFit, self.default("attn_masked", "any"))

    def mixed(self, cache_kernel: str) -> Known[MixedFit] | None:
        """Return the constants of the mixed-batch kernel, or None: only one device and stack were measured."""
        row = self._row(self._own, "attn_mixed", f"{self._order[0]}/hd128")
        if row is None or cache_kernel != "bfloat16":
            return None
        return self._known(row, MixedFit, self._measured(), f"{self.device.performance} {self._order[0]}")

    def latent_prefill(self, cache_kernel: str) -> Known[PrefillFit]:
        """Return the constants of MLA prefill."""
        return self._find("mla_context", f"kv{cache_kernel}", PrefillFit, ("kvbfloat16",))

    def latent_decode(self, cache_kernel: str) -> Known[LatentDecodeFit]:
        """Return the constants of MLA decode."""
        return self._find("mla_generation", f"kv{cache_kernel}", LatentDecodeFit, ("kvbfloat16",))

    def experts(self, kernel: str) -> Known[ExpertsFit]:
        """Return the constants of fused mixture-of-experts kernels.

        A fit whose share of the memory's bandwidth ended at the search's lower bound has put the reading of weights
        into other terms, and is far too slow for larger experts than it has seen.  So for fp8 the constants of
        block-scaled fp8 stand in, which move the same bytes.
        """
        known = self._find("moe", kernel, ExpertsFit, ())
        if kernel == "fp8" and known.fit.e_bw <= LEAST_BANDWIDTH_SHARE:
            return self._find("moe", "fp8_block", ExpertsFit, ())
        return known

    def collective(self, library: str, operation: str, ranks: int) -> Known[CollectiveFit] | None:
        """Return the constants of a collective of ``library`` (nccl, or vllm for its custom all-reduce), or None."""
        row = self._row(self._own, "comm", f"{library}/{operation}_n{ranks}")
        if row is None:
            return None
        return self._known(row, CollectiveFit, self._measured(), f"{self.device.performance} {library}")

    def expert_exchange(self, mode: str, direction: str, nodes: int) -> Known[ExchangeFit] | None:
        """Return the constants of DeepEP over ``nodes`` nodes of 8 devices, or None where nothing was measured.

        ``mode`` is ll (low latency, for decode) or normal (for prefill), ``direction`` dispatch or combine.
        """
        row = self._row(self._own, "deepep", f"{mode}_{direction}_nodes{nodes}")
        if row is None:
            return None
        return self._known(row, ExchangeFit, self._measured(), f"{self.device.performance} deepep")

    def stream(self, kernel: str) -> StreamFit:
        """Return the constants of an element-wise kernel: norm, rope, act, add or embedding."""
        row = self._row(self._own, "elementwise", kernel) or self._row(self._default, "elementwise", self._kind)
        return _make(StreamFit, row or {})

    def fitted_link(self) -> tuple[str, float] | None:
        """Return kind and bandwidth (B/s) of the link with which the device's collectives were fitted."""
        with_figures = self._own.get("fitted_with", {})
        if "link" not in with_figures:
            return None
        return str(with_figures["link"]), float(with_figures["link_GBps"]) * 1e9

    def own(self, section: str, key: str) -> Row | None:
        """Return a row of the device's own tables, or None."""
        return self._row(self._own, section, key)

    def default(self, section: str, key: str) -> Row:
        """Return a row of the data-sheet layer.

        Raises:
            CatalogError: there is no such row.
        """
        row = self._row(self._default, section, key)
        if row is None:
            raise CatalogError(f"{FOLDER}/default.yaml: {section}: no row {key!r}")
        return row

    def _find(
        self, section: str, key: str, make: type[Fit], other_formats: Sequence[str], suffix: str = ""
    ) -> Known[Fit]:
        """Return the best row for ``key``: own stack, nearest stack, own device in another format, data sheet."""
        name = self.device.performance
        for candidate in (key, *(other for other in other_formats if other != key)):
            rows = [
                (stack, row)
                for stack in self._order
                for row in (self._row(self._own, section, f"{stack}/{candidate}{end}") for end in ("", suffix))
                if row is not None
            ]
            if not rows:
                continue
            # The sort is stable: nearest first among those that the formula fits.
            stack, row = min(rows, key=lambda pair: _median_error(pair[1]) > UNUSABLE)
            fitted = stack == self._order[0]
            known = self._known(row, make, self._measured(fitted), f"{name} {stack}")
            if not fitted:
                self._warn(f"{section} {candidate}: no usable fit for {name} on {self.stack}, {known.source} stands in")
            if candidate != key:
                self._warn(f"{section}: no fit for {name} in {key}, priced as {candidate} with fewer bytes")
            return known
        return self._sheet(section, key, make, other_formats)

    def _sheet(self, section: str, key: str, make: type[Fit], other_formats: Sequence[str]) -> Known[Fit]:
        """Return the row of the data-sheet layer; the CPU has one format only."""
        tried = [f"{self._kind}/{candidate}" for candidate in (key, *other_formats)] + [f"any/{key}"]
        found = next((row for row in (self._row(self._default, section, k) for k in tried) if row is not None), None)
        if found is None:
            raise CatalogError(f"{FOLDER}/default.yaml: {section}: no row for {key!r}")
        if self._own:
            self._warn(f"{section} {key}: no fit for {self.device.performance}, priced from the data sheet")
        return self._known(found, make, DATA_SHEET, str(found["version"]))

    def _measured(self, own_stack: bool = True) -> str:
        """Return the layer of a row of the device's own file."""
        return SIBLING if self._sibling else FITTED if own_stack else OTHER_STACK

    def _chip(self) -> Chip:
        device = self.device
        sustained = 1.0 if device.sustained_clock_hz is None else device.sustained_clock_hz / device.clock_hz
        peaks = {name: sustained * peak for name, peak in device.peak_flops.items()}
        half = next((name for name in HALF if name in peaks), None)
        if half is None:
            raise CatalogError(f"device {self.device.name}: peak_flops: none of {', '.join(HALF)}")
        if half not in ("bf16", "fp16"):
            self._warn(f"device {self.device.name}: no bf16 or fp16 peak, matrix products run at {half}")
        peaks["bf16"] = peaks[half]
        if self.device.sparsity == "2:4":
            peaks |= {f"{name}_2_4": 2 * peak for name, peak in peaks.items()}
        return Chip(self.device.memory_bandwidth, float(self.device.multiprocessors), peaks)

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    @staticmethod
    def _row(tables: Mapping[str, Any], section: str, key: str) -> Row | None:
        table = tables.get(section)
        if table is None or key not in table:
            return None
        return dict(zip(table["columns"], table[key], strict=True))

    @staticmethod
    def _known(row: Row, make: type[Fit], layer: str, source: str) -> Known[Fit]:
        version = "" if layer == DATA_SHEET else f" {row['version']}"
        return Known(_make(make, row), layer, f"{source}{version}", error_text(str(row["error"])))


def error_text(error: str) -> str:
    """Return ``"5.0 13.3 26.8"`` (median, p90, p99 of the absolute percentage error) as ``"5.0 / 13.3 %"``."""
    words = error.split()
    return f"{words[0]} / {words[1]} %" if len(words) > 1 and words[0].replace(".", "").isdigit() else error


def _median_error(row: Row) -> float:
    first = str(row["error"]).split()[0]
    return float(first) if first.replace(".", "").isdigit() else 0.0


def _make(make: type[Fit], row: Row) -> Fit:
    # Every fit is a dataclass of floats alone, which the type variable cannot say.
    return make(**{field.name: float(row[field.name]) for field in fields(make)})  # type: ignore[arg-type]


@cache
def _tables(name: str) -> Mapping[str, Any]:
    """Return the tables of one file.  Read once: they are constants, and every stage of every replica asks."""
    import yaml

    path = catalog.find(FOLDER, name)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise CatalogError(f"{FOLDER}/{path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise CatalogError(f"{FOLDER}/{path.name}: not a mapping of tables (got {type(content).__name__})")
    return content
