"""What the devices of one group pay to talk: all-reduce, all-gather, and sends to the next stage.

Where a group uses the link and has the size that its device was measured with, the fitted curves of the
collective libraries are used, scaled by the bandwidth of the link.  Elsewhere the same formula runs on the
bandwidth of the link alone, with constants that are medians over the measured devices; a group that
crosses a network pays the latency of every crossing on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from llmsim.hardware import Link
from llmsim.performance.coefficients import DATA_SHEET, FITTED, LAYERS, Coefficients, error_text
from llmsim.performance.fits import CollectiveFit
from llmsim.performance.kernels import Array, collective

_MEASURED_RANKS = (2, 4, 8)
_NCCL_ALONE = ("vllm-2023", "vllm-paged")  # stacks without a kernel of their own to sum over devices
_NETWORKS = ("infiniband", "ethernet")


@dataclass(frozen=True, slots=True)
class Way:
    """One implementation of a collective, of which the faster is used."""

    fit: CollectiveFit
    one_shot: bool


def family(link: Link) -> str:
    """Return the family of a link: pcie, network, nvlink, or another direct one."""
    kind = link.kind.lower()
    if kind.startswith(("nvlink", "nvswitch")):
        return "nvlink"
    if kind.startswith("pci"):
        return "pcie"
    return "network" if kind.startswith(_NETWORKS) else kind


class Group:
    """The ``ranks`` devices of one tensor-parallel group, joined by ``link``.

    ``link`` None stands for the link that the device was measured with.  ``nodes`` is the number of nodes that
    the group spans.
    """

    def __init__(self, known: Coefficients, ranks: int, link: Link | None, *, nodes: int = 1) -> None:
        self.ranks = ranks
        self._known = known
        self._nodes = nodes
        self._own = known.fitted_link()
        self._link = link or self._usual_link()
        self._crosses = nodes > 1
        self.layer, self.error = FITTED, ""
        self._reduce = self._ways("all_reduce") if ranks > 1 else []
        self._gather = self._ways("all_gather") if ranks > 1 else []
        self._scatter: list[Way] | None = None

    def all_reduce(self, size: Array) -> Array:
        """Return the seconds to sum ``size`` bytes over the group."""
        return self._fastest(self._reduce, "all_reduce", size)

    def all_gather(self, size: Array) -> Array:
        """Return the seconds until every rank has the ``size`` bytes of which each held its part."""
        return self._fastest(self._gather, "all_gather", size)

    def reduce_scatter(self, size: Array) -> Array:
        """Return the seconds until every rank has its part of the sum of ``size`` bytes over the group.

        By the data sheet it takes as long as an all-gather, which moves the same bytes.
        """
        if self._scatter is None:
            self._scatter = self._ways("reduce_scatter") if self.ranks > 1 else []
        return self._fastest(self._scatter, "reduce_scatter", size)

    def _fastest(self, ways: Sequence[Way], operation: str, size: Array) -> Array:
        if self.ranks == 1:
            return np.zeros(np.shape(size))
        times = [
            collective(way.fit, operation, self.ranks, size, one_shot=way.one_shot) * self._factor(way, operation, size)
            for way in ways
        ]
        return np.asarray(np.minimum.reduce(times) + self._crossing_s())

    def _factor(self, way: Way, operation: str, size: Array) -> Array | float:
        """Return what measured collectives say beside the formula, on the link that was measured."""
        residuals = self._known.residuals
        if not residuals or self.layer == DATA_SHEET:
            return 1.0
        return residuals.line(operation, ("vllm" if way.one_shot else "nccl", self.ranks), (), size)

    def _crossing_s(self) -> float:
        """Return the extra latency of a tree over the nodes, up and down."""
        return 2 * ceil(log2(self._nodes)) * self._link.latency_s if self._crosses else 0.0

    def _usual_link(self) -> Link:
        kind, bandwidth = self._own or ("direct", self._known.device.scale_up_bandwidth)
        return Link(kind, bandwidth, 0.0)

    def _ways(self, operation: str) -> list[Way]:
        """Return the implementations to choose from: those measured on this link, else the data sheet's."""
        if self._own and not self._crosses and family(self._link) == family(Link(self._own[0], self._own[1], 0.0)):
            scale = self._link.bandwidth / self._own[1]
            # An engine has two ways to sum: NCCL, and a kernel of its own that reads the buffers of the others
            # directly and wins while messages are small.  vLLM, TensorRT-LLM and SGLang all ship one and switch by
            # size and group; where the switch lies changes with every release, so the faster of the two is taken.
            # vLLM's is the one measured.  The vLLM of 2023 had none, nor had builds
            # for other GPUs than Nvidia's before 0.7.
            libraries = ("nccl",) if self._known.stack in _NCCL_ALONE else ("nccl", "vllm")
            found = [(library, self._known.collective(library, operation, self.ranks)) for library in libraries]
            ways = [Way(_scaled(known.fit, scale), library != "nccl") for library, known in found if known]
            if ways:
                last = next(known for _, known in reversed(found) if known)
                self.layer, self.error = max(self.layer, last.layer, key=LAYERS.index), self.error or last.error
                return ways
        return self._sheet_ways(operation)

    def _sheet_ways(self, operation: str) -> list[Way]:
        self.layer = DATA_SHEET
        switched = self._crosses or family(self._link) != "pcie"
        tables = ["switched" if switched else "pcie"]
        gpu = self._known.device.kind == "gpu" and self._known.stack not in _NCCL_ALONE
        if operation == "all_reduce" and gpu and switched and not self._crosses and self.ranks <= _MEASURED_RANKS[-1]:
            tables.append("custom")
        operation = "all_gather" if operation == "reduce_scatter" else operation
        self.error = self.error or error_text(str(self._row(tables[0], operation, min(self.ranks, 8))["error"]))
        return [Way(self._sheet_fit(table, operation), table == "custom") for table in tables]

    def _sheet_fit(self, table: str, operation: str) -> CollectiveFit:
        """Return the medians' constants, between measured group sizes by linear interpolation in log2(ranks).

        Beyond 8 ranks the latency grows on in proportion to the ranks, as a ring's does; efficiencies stay.
        """
        rows = [self._row(table, operation, ranks) for ranks in _MEASURED_RANKS]
        place = log2(self.ranks)

        def at(name: str) -> float:
            return float(np.interp(place, [log2(ranks) for ranks in _MEASURED_RANKS], [row[name] for row in rows]))

        longer = max(self.ranks / _MEASURED_RANKS[-1], 1.0)
        bandwidth = self._link.bandwidth / 1e9
        # Across nodes the link is one network card, whatever the ranks of a node could send side by side.
        # There the protocols do not blend as softly as between neighbours: never more than a send achieves.
        ceiling = float(self._known.default("send", "network")["B_of_link"]) if self._crosses else 1.0
        torus = family(self._link) == "ici"
        return CollectiveFit(
            _torus_us(self.ranks, self._link) if torus else at("a_us") * longer,
            at("da_us"),
            min(at("B1_of_link"), ceiling) * bandwidth,
            min(at("B_of_link"), ceiling) * bandwidth,
            8.0 if self._crosses else at("p"),
        )

    def _row(self, table: str, operation: str, ranks: int) -> dict[str, float]:
        ranks = min((size for size in _MEASURED_RANKS if size >= ranks), default=_MEASURED_RANKS[-1])
        return dict(self._known.default("comm", f"{table}/{operation}_n{ranks}"))


def _torus_us(ranks: int, link: Link) -> float:
    """Return the microseconds in which the smallest message is summed over a torus of ``ranks`` chips.

    Each axis is a ring that is walked both ways to its farther side, once to sum and once to spread; with a torus
    of three axes that is ``2 x 3 x ranks^(1/3) / 2`` hops.  Each of the ring operations, of which a torus of 4 x 4 x 4
    has six, takes 3 us to start; our estimate.
    """
    hops = 3.0 * float(ranks ** (1 / 3))
    return 3.0 * log2(ranks) + hops * link.latency_s * 1e6


def send(known: Coefficients, link: Link, size: Array) -> Array:
    """Return the seconds to send ``size`` bytes over ``link``, whose latency includes the software's."""
    row = known.default("send", family(link) if family(link) in ("pcie", "network") else "switched")
    return np.asarray(link.latency_s + size / (float(row["B_of_link"]) * link.bandwidth))


def _scaled(fit: CollectiveFit, scale: float) -> CollectiveFit:
    """Return the constants on a link that is ``scale`` times as fast, of the same latency."""
    return CollectiveFit(fit.a_us, fit.da_us, fit.B1_GBps * scale, fit.B_GBps * scale, fit.p)
