"""Random scenarios of one engine with plain prices, which hypothesis draws (the same ones every time)."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from simulations import PlainPrices, options

from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.workload.request import Prefix, Request

fixed_draws = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    report_multiple_bugs=False,
)
# For tests that are known to fail: one failure is enough, a small one would take a minute to find.
unshrunk = settings(fixed_draws, phases=[Phase.generate])


def scenarios(*, pipelined: bool = False, asynchronous: bool | None = None) -> st.SearchStrategy[dict]:
    """Draw scenarios.

    Hypothesis draws how many requests there are and a seed; all else comes from the seed, because hypothesis
    on its own draws small numbers, under which nothing is ever short.  Fewer requests are the first ones.
    """
    return st.builds(
        lambda count, seed: scenario_of(Random(seed), count, pipelined=pipelined, asynchronous=asynchronous),
        st.integers(1, 40),
        st.integers(0, 2**32),
    )


def scenario_of(random: Random, count: int, *, pipelined: bool = False, asynchronous: bool | None = None) -> dict:
    """Draw ``count`` requests, engine options, blocks, windows and prices."""
    seats = random.choice([1, 2, 8, 32])
    budget = max(seats, random.choice([16, 64, 256, 2048]))
    stages = random.choice([2, 3]) if pipelined else 1
    caching = random.random() < 0.4
    engine = options(
        max_num_seqs=seats,
        max_num_active_seqs=random.choice([seats, max(1, seats - 1)]),
        max_num_batched_tokens=budget,
        max_num_scheduled_tokens=random.choice([budget, max(seats, budget // 2)]),
        max_model_len=random.choice([4096, 4096, 512, 130]),
        block_size=random.choice([1, 16, 32]),
        async_scheduling=random.random() < 0.6 if asynchronous is None else asynchronous,
        scheduling_policy=random.choice(["fcfs", "priority"]),
        enable_prefix_caching=caching,
        prefill_schedule_interval=random.choice([1, 1, 1, 4]),
        long_prefill_token_threshold=random.choice([0, 0, 40]),
        watermark=random.choice([0.0, 0.0, 0.05]),
        scheduler_reserve_full_isl=random.random() < 0.6,
        cudagraph_sizes=random.choice([(), (1, 2, 4, 8, 16, 32)]),
        pipeline_parallel_size=stages,
    )
    windows = random.choice([(), (), (), (64,), (32, 200)])
    asked = requests(random, count, caching=caching)
    largest = max(min(one.prompt_tokens + one.output_tokens, engine.max_model_len) for one in asked)
    roomy = -(-largest // engine.block_size) * (1 + len(windows))
    blocks = max(1, roomy + random.choice([-5, 0, 0, 3, 50, 4000]))
    plain = random.choice([{"token": 0.0, "context": 0.0, "bend": 0.0}, {}, {"host": 0.012}])
    prices = [PlainPrices((None, *windows), **plain) for _ in range(stages)]
    return {"requests": asked, "engine": engine, "blocks": blocks, "windows": windows, "prices": prices}


def requests(random: Random, count: int, *, caching: bool) -> list[Request]:
    """Draw requests in order of arrival: some at once, some as steps end, perhaps at a clock of a million seconds."""
    moment = random.choice([0.0, 0.0, 1e6])
    longest_prompt, longest_output = random.choice([20, 300, 900]), random.choice([1, 4, 40, 300])
    drawn = []
    for number in range(count):
        moment += random.choice([0.0, 0.0, random.expovariate(20.0), random.expovariate(2.0), 0.01, 0.02])
        prompt, output = random.randint(1, longest_prompt), random.randint(1, longest_output)
        prefix = shared_prefix(random) if caching else None
        drawn.append(Request(str(number), moment, prompt, output, priority=random.randint(0, 2), prefix=prefix))
    return drawn


def shared_prefix(random: Random) -> Prefix | None:
    """Draw contents such that prompts begin alike now and then."""
    if random.random() < 0.3:
        return None
    contents = tuple(10 * depth + random.randint(0, 1) for depth in range(random.randint(1, 8)))
    return Prefix(contents, random.choice([16, 64, 24]))


def pool_of(blocks: int, settings_, windows: tuple[int, ...]) -> BlockPool:
    chunk = settings_.max_num_batched_tokens
    if settings_.enable_prefix_caching and not windows:
        return PrefixCache(blocks, settings_.block_size, max_chunk=chunk)
    groups = (BlockGroup(None), *(BlockGroup(window) for window in windows))
    return BlockPool(blocks, settings_.block_size, groups, max_chunk=chunk)
