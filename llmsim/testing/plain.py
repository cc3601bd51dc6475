"""Small simulations with plain prices, for tests of schedulers and of the engine: no model, no hardware, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsim.engine import Engine
from llmsim.engine_options import EngineOptions, cudagraph_sizes
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.results.records import Record
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.protocol import Scheduler
from llmsim.timeline import Pipeline, SingleStage, Timeline
from llmsim.workload.request import Request

Floats = NDArray[np.float64]


class PlainPrices:
    """Prices that are easy to reason about, with the shape of real ones (see `StagePrices`).

    A step takes ``fixed`` seconds, ``token`` for each of its tokens, ``context`` for each token that is attended to
    by a sequence that decodes, and ``bend`` times the square of its context; on the host it takes ``host``.
    """

    kinds: tuple[tuple[str, str], ...] = (
        ("compute", "feed_forward"),
        ("compute", "attention"),
        ("memory", "attention"),
        ("host", "none"),
    )

    host_bound = False
    host_layers = 0.0

    def __init__(
        self,
        windows: tuple[int | None, ...] = (None,),
        *,
        fixed: float = 0.01,
        token: float = 1e-5,
        context: float = 1e-7,
        bend: float = 3e-12,
        host: float = 0.0,
    ) -> None:
        self.windows = windows
        self.fixed, self.token, self.context, self.bend, self.host_s = fixed, token, context, bend, host

    @property
    def host_table_us(self) -> tuple[float, float, float]:
        """Microseconds of the host a step, a layer and a sequence."""
        return 1e6 * self.host_s, 0.0, 0.0

    def linear(self, tokens: Floats) -> Floats:
        """Price the tokens of a step."""
        return np.vstack([self.fixed + self.token * tokens, 0 * tokens, 0 * tokens, 0 * tokens])

    def head(self, rows: Floats) -> Floats:
        """Price nothing: sampling is free."""
        return np.zeros((4, len(rows)))

    def decode_attention(self, group: int, batch: Floats, context: Floats) -> Floats:
        """Price the attention of ``batch`` sequences with mean ``context``, a quarter of it as compute."""
        seconds = batch * context * self.context + batch * context**2 * self.bend
        return np.vstack([0 * batch, 0.25 * seconds, 0.75 * seconds, 0 * batch])

    def mixed_attention(
        self,
        group: int,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest_context: float,
    ) -> tuple[float, float]:
        """Price the attention of a step with chunks (tokens, prefix), half of it as compute."""
        seconds = sum(tokens * (prefix + tokens / 2) for tokens, prefix in chunks) * 1e-9
        return seconds + context_sum * self.context, 0.5

    def host(self, sequences: Floats, tokens: Floats) -> Floats:
        """Price the host's work."""
        return np.full(len(sequences), self.host_s)


def plain_options(**changes: Any) -> EngineOptions:
    """Return engine options with small defaults."""
    plain: dict[str, Any] = {
        "max_num_seqs": 32,
        "max_num_batched_tokens": 256,
        "max_model_len": 4096,
        "block_size": 16,
        "async_scheduling": False,
        "cudagraph_sizes": cudagraph_sizes(64),
        "enable_prefix_caching": False,
        **changes,
    }
    plain.setdefault("max_num_scheduled_tokens", plain["max_num_batched_tokens"])
    plain.setdefault("max_num_active_seqs", plain["max_num_seqs"])
    return EngineOptions(**plain)


def run_plain(
    requests: Iterable[Request],
    *,
    engine: EngineOptions | None = None,
    blocks: int = 1000,
    windows: tuple[int, ...] = (),
    scheduler: str | Callable[[EngineOptions, BlockPool], Scheduler] = "continuous",
    leap: bool = True,
    prices: Sequence[PlainPrices] | None = None,
) -> tuple[list[Record], Engine]:
    """Simulate one engine on the requests.

    Args:
        requests: in any order.
        engine: its options; None: `plain_options`.
        blocks: of its cache.
        windows: of layers beside those with full attention.
        scheduler: a name in `SCHEDULERS`, or what makes a scheduler from the options and the block pool.
        leap: whether a scheduler that is given by name may leap.
        prices: of each pipeline stage; None: one stage of `PlainPrices`.

    Returns:
        the records in the order of ending, and the engine.
    """
    options = engine or plain_options()
    clock = Clock()
    groups = (BlockGroup(None), *(BlockGroup(window) for window in windows))
    chunk = options.max_num_batched_tokens
    if options.enable_prefix_caching and not windows:
        pool: BlockPool = PrefixCache(blocks, options.block_size, max_chunk=chunk)
    else:
        pool = BlockPool(blocks, options.block_size, groups, max_chunk=chunk)
    prices = prices or [PlainPrices((None, *windows))]
    costs = [StepCost(price, options, host=index == 0) for index, price in enumerate(prices)]
    depth = options.max_concurrent_batches
    timeline: Timeline = SingleStage(costs[0], depth) if len(costs) == 1 else Pipeline(costs, depth)
    records: list[Record] = []
    make = partial(SCHEDULERS[scheduler], leap=leap) if isinstance(scheduler, str) else scheduler
    replica = Engine(0, clock, make(options, pool), timeline, pool, options, records.append)
    for request in requests:
        clock.alarm(request.arrival_s, partial(_submit, replica, request))
    clock.run()
    return records, replica


def _submit(replica: Engine, request: Request, _: object) -> None:
    replica.submit(request)
