"""In which order SGLang tries those who wait.

Source: SGLang 0.5, ``managers/schedule_policy.py`` (``SchedulePolicy``), from memory.  The queue itself is put in
order, by stable sorts, so what is equal keeps the order that it had: that of coming, where nothing else was
asked before.  ``routing-key`` and ``hrrn`` are not here: requests have no routing key, and a policy knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable

from llmsim.errors import ScenarioError
from llmsim.kvcache.radix import RadixCache
from llmsim.kvcache.radix_tree import Node, RadixTree
from llmsim.random import stream
from llmsim.schedulers.queues import ArrivalOrder
from llmsim.schedulers.sequence import Sequence

# ``lpm`` does not look for prefixes in a longer queue.
LONGEST_QUEUE_FOR_PREFIXES = 128
# A request that finds at most so many tokens in the cache, and as many in a request before it in the queue, waits
# for that one's prompt (IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD, ..._DEPRIORITIZE_THRESHOLD).
SHARED_TOKENS_TO_WAIT_FOR = 32
POLICIES = ("fcfs", "lpm", "lof", "random", "dfs-weight", "priority", "shortest-prefill-first")


class PrefillOrder(ArrivalOrder):
    """Those who wait; the retracted come back as the last ones.

    Args:
        policy: one of `POLICIES`.
        cache: where prefixes are found.
        priorities: 1 if the higher priority value goes first, -1 if the lower one does, 0 if it does not count.
        seed: of the stream that ``random`` draws from.

    Raises:
        ScenarioError: the policy is unknown.
    """

    def __init__(self, policy: str, cache: RadixCache, *, priorities: int = 0, seed: int = 0) -> None:
        super().__init__()
        if policy not in POLICIES:
            raise ScenarioError(
                f"scheduler.schedule_policy: unknown policy (got {policy!r})\nhint: known: {', '.join(POLICIES)}"
            )
        if policy in ("lpm", "dfs-weight") and not cache.keeps:
            policy = "fcfs"  # as SGLang does where there is no cache to look into
        self._cache = cache
        self._priorities = priorities
        self._draws = stream(seed, "sglang", "random policy")
        sorts: dict[str, Callable[[], list[Sequence]]] = {
            "lpm": self._by_prefix,
            "lof": lambda: sorted(self, key=lambda one: (-priorities * one.request.priority, -one.target)),
            "random": lambda: [self[place] for place in self._draws.permutation(len(self))],
            "dfs-weight": self._by_weight,
            "shortest-prefill-first": lambda: sorted(self, key=self._uncached),
        }
        self._sorted = sorts.get(policy, self._by_priority if priorities else None)

    def put_back(self, sequence: Sequence) -> None:
        """Append: SGLang adds what it retracts to the end of its queue."""
        self.append(sequence)

    def order(self) -> None:
        """Put the queue into the order of service."""
        if self._sorted is None:
            return
        found = self._sorted()
        self.clear()
        self.extend(found)

    def _by_priority(self) -> list[Sequence]:
        return sorted(self, key=lambda one: -self._priorities * one.request.priority)

    def _uncached(self, sequence: Sequence) -> int:
        return sequence.total - self._cache.match(sequence).end

    def _by_prefix(self) -> list[Sequence]:
        """Longest cached prefix first; last those that will share more with somebody who waits before them."""
        if len(self) > LONGEST_QUEUE_FOR_PREFIXES:
            return list(self)
        found = self._prefixes()
        return sorted(self, key=lambda one: (found[one] is None, -(found[one] or 0)))

    def _prefixes(self) -> dict[Sequence, int | None]:
        """Return the cached tokens of each that waits; None for those that had better wait."""
        ahead = RadixTree()
        found: dict[Sequence, int | None] = {}
        for sequence in self:
            cached = self._cache.match(sequence).end
            found[sequence] = cached
            if cached <= SHARED_TOKENS_TO_WAIT_FOR:
                text = self._cache.text(sequence)
                if ahead.match(text, sequence.total).end >= SHARED_TOKENS_TO_WAIT_FOR:
                    found[sequence] = None
                else:
                    ahead.insert(text, sequence.total)
        return found

    def _by_weight(self) -> list[Sequence]:
        """Depth first through the tree of prefixes, the child behind which most requests wait first."""
        # Matching may split nodes, so all is matched before anything is weighed.
        self._prefixes()
        places = [(self._cache.match(sequence), sequence) for sequence in self]
        ends: dict[Node, list[Sequence]] = {}
        weights: dict[Node, int] = {}
        for place, sequence in places:
            ends.setdefault(place, []).append(sequence)
            step: Node | None = place
            while step is not None:
                weights[step] = weights.get(step, 0) + 1
                step = step.parent
        found: list[Sequence] = []
        stack: list[tuple[Node, bool]] = [(self._cache.tree.root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                found += ends.get(node, ())
                continue
            stack.append((node, True))
            children = [child for child in node.children.values() if child in weights]
            children.sort(key=lambda child: -weights[child])
            stack += [(child, False) for child in reversed(children)]
        return found
