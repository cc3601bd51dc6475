"""Requests that wait, by tenant, and the virtual token counter of each tenant."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import lcm

from llmsim.schedulers.orders.progress import scheduled_output
from llmsim.schedulers.sequence import Sequence

Tenant = str | None


class TenantQueue:
    """First come, first served within a tenant; between tenants, whose counter is least (ties: whose head came first).

    Counters are whole numbers of a unit in which both weights are whole, so it does not matter in how many
    steps tokens are charged.

    Args:
        input_weight: what an input token costs its tenant; charged once, at the first admission.
        output_weight: what an output token costs its tenant; charged as it is scheduled.

    Attributes:
        counters: service received, with the lifts, in units of 1 / ``unit``, by tenant.
        unit: what one weighted token counts.
    """

    def __init__(self, input_weight: float, output_weight: float) -> None:
        weights = Fraction(str(input_weight)), Fraction(str(output_weight))
        self.unit = lcm(*(weight.denominator for weight in weights))
        self._input, self._output = (int(weight * self.unit) for weight in weights)
        self.counters: dict[Tenant, int] = {}
        self._waiting: dict[Tenant, deque[Sequence]] = {}  # tenants with nobody in the queue are not in it
        self._back: list[Sequence] = []  # newcomers since the last decision, in order of arrival
        self._charged: dict[Sequence, int] = {}  # output tokens charged, of those admitted and not yet ended
        self._last_left: Tenant = None
        self._count = 0

    def __len__(self) -> int:
        """Count the sequences that wait."""
        return self._count

    def add(self, sequence: Sequence) -> bool:
        """Take in a newcomer; say whether it is the only one of its tenant, and may so be the first."""
        tenant = sequence.request.tenant
        alone = tenant not in self._waiting and all(other.request.tenant != tenant for other in self._back)
        self._back.append(sequence)
        self._count += 1
        return alone

    def look(self, running: Iterable[Sequence]) -> None:
        """Bring counters and queue up to date before a decision."""
        for sequence in running:
            self._charge(sequence)
        for sequence in self._back:
            tenant = sequence.request.tenant
            if tenant not in self._waiting:
                self._lift(tenant)
                self._waiting[tenant] = deque()
            self._waiting[tenant].append(sequence)
        self._back.clear()

    def _lift(self, tenant: Tenant) -> None:
        """Let no credit be saved up by being away: a tenant comes back at the level of the others."""
        counters = self.counters
        present = [counters[other] for other in self._waiting]
        counters[tenant] = max(counters.get(tenant, 0), min(present, default=counters.get(self._last_left, 0)))

    def _charge(self, sequence: Sequence) -> None:
        """Charge the output tokens scheduled since the last time."""
        output = scheduled_output(sequence)
        self.counters[sequence.request.tenant] += self._output * (output - self._charged[sequence])
        self._charged[sequence] = output

    def heads(self) -> Iterator[Sequence]:
        """Yield the first sequence of each tenant that waits."""
        return (queue[0] for queue in self._waiting.values())

    def head(self) -> Sequence:
        """Return the first sequence of the tenant with the least counter and keep it."""
        counters = self.counters
        return min(self.heads(), key=lambda head: (counters[head.request.tenant], head.arrival))

    def take(self) -> Sequence:
        """Return the head, let it go, and charge its input when it goes for the first time."""
        head = self.head()
        self._leave(head)
        if head not in self._charged:
            self._charged[head] = 0
            self.counters[head.request.tenant] += self._input * head.request.prompt_tokens
        return head

    def put_back(self, sequence: Sequence) -> None:
        """Take a preempted sequence back to the front of its tenant's queue; its tenant has not been away."""
        self._charge(sequence)
        self._waiting.setdefault(sequence.request.tenant, deque()).appendleft(sequence)
        self._count += 1

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        if sequence in self._back:
            self._back.remove(sequence)
            self._count -= 1
        else:
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        tenant = sequence.request.tenant
        queue = self._waiting[tenant]
        queue.remove(sequence)
        self._count -= 1
        if not queue:
            del self._waiting[tenant]
            self._last_left = tenant

    def end(self, sequence: Sequence) -> None:
        """Charge what is left to charge of a sequence that has ended, and forget it."""
        if sequence in self._charged:
            self._charge(sequence)
            del self._charged[sequence]
