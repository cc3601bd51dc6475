"""Who asks: tenants with shares, priorities and deadlines, drawn for the requests of any workload."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from zlib import crc32

from llmsim.errors import ScenarioError
from llmsim.random import stream
from llmsim.workload.parameters import Parameters
from llmsim.workload.protocol import Workload
from llmsim.workload.request import Request

if TYPE_CHECKING:
    from llmsim.results.records import Record

_ALL = 2**64


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant: ``share`` of the requests, in 0 to 1, its priority, and seconds from arrival to deadline."""

    name: str
    share: float
    priority: int | None = None
    slack_s: float | None = None


@dataclass(slots=True)
class Tenanted:
    """The requests of another workload, each with the tenant that is drawn for it.

    A draw belongs to the request's session, or to its id where it has none: it does not depend on the order in
    which requests come, so every scheduler meets the same ones, and a session has one tenant.
    """

    inner: Workload
    tenants: tuple[Tenant, ...]
    seed: int
    _salt: int = field(init=False, repr=False)
    _ends: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._salt = int(stream(self.seed, "tenants").integers(_ALL, dtype="uint64"))
        self._ends = list(accumulate(tenant.share for tenant in self.tenants))[:-1]

    @property
    def description(self) -> str:
        """One line."""
        return f"{self.inner.description}, tenants: " + ", ".join(tenant.name for tenant in self.tenants)

    @property
    def warnings(self) -> list[str]:
        """What the inner workload warns of."""
        return self.inner.warnings

    @property
    def expected_requests(self) -> int | None:
        """What the inner workload expects."""
        return self.inner.expected_requests

    def start(self) -> Iterator[Request]:
        """Stream the requests from the beginning."""
        return (self._given(request) for request in self.inner.start())

    def on_end(self, record: "Record") -> Iterable[Request]:
        """Return what follows in the inner workload."""
        return [self._given(request) for request in self.inner.on_end(record)]

    def _given(self, request: Request) -> Request:
        who = request.id if request.session_id is None else request.session_id
        tenant = self.tenants[bisect_right(self._ends, mixed(self._salt ^ crc32(who.encode())) / _ALL)]
        return replace(
            request,
            tenant=tenant.name,
            priority=request.priority if tenant.priority is None else tenant.priority,
            deadline_s=request.deadline_s if tenant.slack_s is None else request.arrival_s + tenant.slack_s,
        )


def mixed(number: int) -> int:
    """Return 64 bits in which every bit of ``number`` is mixed: the finaliser of SplitMix64 (Steele et al., 2014)."""
    number = (number + 0x9E3779B97F4A7C15) % _ALL
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % _ALL
    number = (number ^ number >> 27) * 0x94D049BB133111EB % _ALL
    return number ^ number >> 31


def read_tenants(values: Any, where: str) -> tuple[Tenant, ...]:
    """Return the tenants of an option such as ``{a: 0.7, b: {weight: 0.3, priority: 1, slack_s: 2}}``.

    Raises:
        ScenarioError: a weight or another option is wrong; the message names it.
    """
    if not isinstance(values, Mapping) or not values:
        raise ScenarioError(f"{where}: must map names of tenants to weights (got {values!r})")
    tenants = []
    shares = Parameters({str(name): value for name, value in values.items()}, where)
    for name in map(str, values):
        if not isinstance(shares.raw(name), Mapping):
            tenants.append(Tenant(name, shares.number(name, above=0.0, most=1e9)))
            continue
        options = shares.below(name)
        weight = options.number("weight", above=0.0, most=1e9)
        priority, slack_s = options.optional_whole("priority"), options.optional_number("slack_s", least=0.0, most=1e9)
        options.finish()
        tenants.append(Tenant(name, weight, priority, slack_s))
    total = sum(tenant.share for tenant in tenants)
    return tuple(replace(tenant, share=tenant.share / total) for tenant in tenants)
