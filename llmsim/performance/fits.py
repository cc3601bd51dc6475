"""The constants of the kernel formulas, one class for each formula of `kernels`.

Names are those of the fits in ``hardware/performance``: a suffix is the unit (``_us``, ``_ns``, ``_GBps``, ``_MB``),
``e_*`` is a fraction of the data sheet's peak, ``p`` the exponent of a norm, all others are elements or dimensionless.
The values are effective: valid only in their own formula, with the chip they were fitted on.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """The figures that fitted constants are fractions of.

    ``bandwidth`` in B/s, ``flops`` dense FLOP/s by compute format; ``bf16`` is the one that attention uses.
    """

    bandwidth: float
    multiprocessors: float
    flops: Mapping[str, float]

    @property
    def bf16(self) -> float:
        """FLOP/s of 16-bit matrix products."""
        return self.flops["bf16"]


@dataclass(frozen=True, slots=True)
class GemmFit:
    """Constants of `gemm`."""

    t0_us: float
    tk_us: float
    ks: float
    e_max: float
    kh: float
    mnh: float
    mh: float
    nh: float
    e_bw: float
    l2_gain: float
    l2_MB: float  # noqa: N815 (the column's name, with its unit)
    p: float
    qb: float


@dataclass(frozen=True, slots=True)
class PrefillFit:
    """Constants of `prefill_attention`, and of `latent_prefill_attention`."""

    t0_us: float
    e: float
    sT: float  # noqa: N815 (the column's name, with its unit)
    occ: float
    e_bw: float
    p: float
    hh: float
    ti_ns: float


@dataclass(frozen=True, slots=True)
class DecodeFit:
    """Constants of `decode_attention`."""

    t0_us: float
    e_bw: float
    h_item: float
    ti_ns: float
    l2_gain: float
    l2_MB: float  # noqa: N815 (the column's name, with its unit)
    p: float
    e_c: float
    tk_us: float
    r1_GBps: float  # noqa: N815 (the column's name, with its unit)


@dataclass(frozen=True, slots=True)
class MixedFit:
    """Constants of the mixed-batch attention kernel, `mixed_attention`."""

    t0_us: float
    e: float
    r: float
    sd: float
    sp: float
    p: float
    T: float
    b1: float


@dataclass(frozen=True, slots=True)
class PagedFit:
    """Constants of `llmsim.performance.paged_attention`.

    ``t0_us`` launch; ``e_bw`` part of the memory's bandwidth that version 2 reaches; ``shared_kB`` shared memory of a
    multiprocessor; ``round_us`` the time of one round of loads of a block of version 1, 0 where only version 2 is.
    """

    t0_us: float
    e_bw: float
    shared_kB: float  # noqa: N815 (the column's name, with its unit)
    round_us: float


@dataclass(frozen=True, slots=True)
class MaskedFit:
    """Constants of `llmsim.performance.masked_attention`.

    ``t0_us`` launch; ``e_bw`` part of the memory's bandwidth; ``elements`` that a multiprocessor multiplies in a cycle.
    """

    t0_us: float
    e_bw: float
    elements: float


@dataclass(frozen=True, slots=True)
class LatentDecodeFit:
    """Constants of `latent_decode_attention`."""

    t0_us: float
    e_bw: float
    ti_ns: float
    p: float
    e_c: float
    nh_pad: float
    tk_us: float
    r1_GBps: float  # noqa: N815 (the column's name, with its unit)


@dataclass(frozen=True, slots=True)
class ExpertsFit:
    """Constants of `experts`."""

    t0_us: float
    tA_ns: float  # noqa: N815 (the column's name, with its unit)
    e: float
    mh: float
    e_bw: float
    p: float
    ca: float
    cT: float  # noqa: N815 (the column's name, with its unit)
    fh: float
    lam: float


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """Constants of `collective`; the exponent is that of a soft minimum of two protocols."""

    a_us: float
    da_us: float
    B1_GBps: float
    B_GBps: float
    p: float


@dataclass(frozen=True, slots=True)
class ExchangeFit:
    """Constants of `expert_exchange`."""

    a_us: float
    B_GBps: float


@dataclass(frozen=True, slots=True)
class StreamFit:
    """Constants of `stream`."""

    t0_us: float
    e_bw: float
