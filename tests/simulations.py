"""Small simulations with plain prices, for tests of the engine: no model, no hardware, no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llmsim.engine import Engine
from llmsim.engine_options import EngineOptions, cudagraph_sizes
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.results.records import Record
from llmsim.schedulers import SCHEDULERS
from llmsim.timeline import Pipeline, SingleStage
from llmsim.workload.request import Request


class PlainPrices:
    """Prices that are easy to reason about, with the shape of real ones (see `StagePrices`)."""

    kinds = (("compute", "feed_forward"), ("compute", "attention"), ("memory", "attention"), ("host", "none"))

    host_bound = False

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

    def linear(self, tokens):
        return np.vstack([self.fixed + self.token * tokens, 0 * tokens, 0 * tokens, 0 * tokens])

    def head(self, rows):
        return np.zeros((4, len(rows)))

    def decode_attention(self, group, batch, context):
        seconds = batch * context * self.context + batch * context**2 * self.bend
        return np.vstack([0 * batch, 0.25 * seconds, 0.75 * seconds, 0 * batch])

    def mixed_attention(self, group, chunks, decodes, context_sum, longest_context):
        seconds = sum(tokens * (prefix + tokens / 2) for tokens, prefix in chunks) * 1e-9
        return seconds + context_sum * self.context, 0.5

    def host(self, sequences, tokens):
        return np.full(len(sequences), self.host_s)


def options(**changes) -> EngineOptions:
    """Return engine options with small defaults."""
    plain = {
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


def run(
    requests: Iterable[Request],
    *,
    engine: EngineOptions | None = None,
    blocks: int = 1000,
    windows: tuple[int, ...] = (),
    scheduler: str | type = "continuous",
    leap: bool = True,
    prices: Sequence[PlainPrices] | None = None,
) -> tuple[list[Record], Engine]:
    """Simulate one engine on the requests; return the records in the order of ending, and the engine."""
    engine_options = engine or options()
    clock = Clock()
    groups = (BlockGroup(None), *(BlockGroup(window) for window in windows))
    chunk = engine_options.max_num_batched_tokens
    if engine_options.enable_prefix_caching and not windows:
        pool: BlockPool = PrefixCache(blocks, engine_options.block_size, max_chunk=chunk)
    else:
        pool = BlockPool(blocks, engine_options.block_size, groups, max_chunk=chunk)
    prices = prices or [PlainPrices((None, *windows))]
    costs = [StepCost(price, engine_options, host=index == 0) for index, price in enumerate(prices)]
    depth = engine_options.max_concurrent_batches
    timeline = SingleStage(costs[0], depth) if len(costs) == 1 else Pipeline(costs, depth)
    records: list[Record] = []
    if isinstance(scheduler, str):
        policy = SCHEDULERS[scheduler](engine_options, pool, leap=leap)
    else:
        policy = scheduler(engine_options, pool)
    replica = Engine(0, clock, policy, timeline, pool, engine_options, records.append)
    for request in requests:
        clock.alarm(request.arrival_s, lambda _, request=request: replica.submit(request))
    clock.run()
    return records, replica
