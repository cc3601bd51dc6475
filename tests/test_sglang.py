"""SGLang's rules, by hand where they decide differently from vLLM's, and on random scenarios.

Sources are named by file and class of SGLang 0.5 (`python/sglang/srt`).
"""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest
from plain_sglang import Asked, PlainSGLang
from seeds import many
from simulations import PlainPrices, options, run

from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.prefill_budget import NewTokenRatio
from llmsim.schedulers.prefill_order import POLICIES
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.sglang import SGLangScheduling
from llmsim.workload.request import History, Prefix, Request

FLAT = {"fixed": 0.01, "token": 0.0, "context": 0.0, "bend": 0.0}  # every step takes 10 ms


class Bench:
    """A scheduler without clock and prices: one step after the other."""

    def __init__(
        self, *, blocks: int, leap: bool = False, name: str = "sglang", engine: dict | None = None, **settings
    ):
        self.pool = BlockPool(blocks, 1)
        plain = {"block_size": 1, "enable_prefix_caching": True, "max_model_len": 100_000}
        self.policy = SCHEDULERS[name](options(**{**plain, **(engine or {})}), self.pool, leap=leap, **settings)
        self.sequences: dict[str, Sequence] = {}

    def add(self, name: str, prompt: int, output: int, **fields) -> None:
        """Let a request arrive."""
        one = Sequence(Request(name, 0.0, prompt, output, **fields), output, len(self.sequences) + 1)
        self.sequences[name] = one
        self.policy.add(one)

    def step(self) -> str:
        """Run one step; say who computed how many tokens: prompts as name:tokens, then those who decode."""
        batch = self.policy.next_batch()
        if batch is None:
            return "idle"
        text = self.told(batch)
        batch.count_chunks()
        self.policy.settle(batch, batch.steps)
        return text

    def told(self, batch: Batch) -> str:
        """Say what a batch computes."""
        prompts = [
            f"{one.request.id}:{tokens}" for one, tokens in batch.chunks if one.remaining > 1 or not one.generated
        ]
        decodes = [one.request.id for one, _ in batch.chunks if one.generated and one.remaining == 1]
        decodes += [one.request.id for one in (batch.decodes.members if batch.decodes is not None else ())]
        gone = [f"-{one.request.id}" for one in batch.preempted]
        return " ".join([*prompts, *sorted(decodes), *gone])

    def steps(self, count: int) -> list[str]:
        """Run steps."""
        return [self.step() for _ in range(count)]

    def waiting(self) -> str:
        """Return who waits, in order."""
        return " ".join(one.request.id for one in self.policy.waiting)


# ---------------------------------------------------------------------- prompts first


def test_prompts_stop_those_who_decode():
    # Scheduler.get_next_batch_to_run: a new prefill batch goes before the running batch.  vLLM would let `a`
    # decode beside the prompt of `b`.
    bench = Bench(blocks=1000)
    bench.add("a", 10, 5)
    assert bench.steps(2) == ["a:10", "a"]
    bench.add("b", 20, 2)
    assert bench.steps(4) == ["b:20", "a b", "a", "a"]


def test_a_stopped_request_waits_one_step_longer_for_its_token():
    # Steps of 10 ms: a's prompt, a, b's prompt (b came at 15 ms), a and b, a, a: a's fifth token after 6 steps.
    # Under vLLM's rules a has a token in each step: after 5.
    requests = [Request("a", 0.0, 10, 5), Request("b", 0.015, 20, 2)]
    ends = {}
    for name in ("sglang", "continuous"):
        records, engine = run(requests, scheduler=name, prices=[PlainPrices(**FLAT)])
        ends[name] = {record.id: round(record.finished_s, 5) for record in records}
        assert sum(engine.log.gaps()[1]) == 4 + 1
    assert ends == {"sglang": {"a": 0.06, "b": 0.04}, "continuous": {"a": 0.05, "b": 0.04}}


def test_the_gap_over_a_prompt_is_two_steps():
    requests = [Request("a", 0.0, 10, 5), Request("b", 0.015, 20, 1)]
    _, engine = run(requests, scheduler="sglang", prices=[PlainPrices(**FLAT)])
    gaps, weights = engine.log.gaps()
    found = sorted(round(gap, 5) for gap, weight in zip(gaps, weights, strict=True) for _ in range(weight))
    assert found == [0.01, 0.01, 0.01, 0.02]


def test_mixed_chunks_let_them_decode():
    # get_new_batch_prefill: the running batch is mixed in (--enable-mixed-chunk), and its tokens count (PrefillAdder).
    bench = Bench(blocks=1000, enable_mixed_chunk=True, chunked_prefill_size=16)
    bench.add("a", 10, 9)
    bench.step()
    bench.add("b", 20, 2)
    assert bench.steps(3) == ["b:15 a", "b:5 a", "a b"]


def test_one_prompt_is_cut_and_goes_on_first():
    # PrefillAdder.add_one_req: the last one is cut to what is left of chunked_prefill_size; add_chunked_req: it is
    # the first of the next batch.
    bench = Bench(blocks=1000, chunked_prefill_size=32)
    bench.add("a", 20, 3)
    bench.add("b", 40, 3)
    bench.add("c", 5, 3)
    assert bench.steps(3) == ["a:20 b:12", "b:28 c:4", "c:1"]


def test_without_chunks_a_step_takes_prompts_up_to_max_prefill_tokens():
    # add_one_req: OTHER if the input is not less than rem_input_tokens, but for the first of a batch.
    bench = Bench(blocks=1000, chunked_prefill_size=-1, max_prefill_tokens=50)
    bench.add("a", 80, 2)
    bench.add("b", 30, 2)
    bench.add("c", 20, 2)
    assert bench.steps(3) == ["a:80", "b:30", "c:20"]


def test_a_step_that_decodes_lies_between_an_end_and_the_next_prompts():
    # batch_is_full is lowered as update_running_batch filters the ended, after the prompts have been tried.
    # vLLM's rules admit c in the step after a's end.
    found = {}
    for name in ("sglang", "continuous"):
        bench = Bench(blocks=1000, name=name, engine={"max_num_seqs": 2})
        for letter, output in (("a", 2), ("b", 9), ("c", 3)):
            bench.add(letter, 10, output)
        found[name] = bench.steps(4)
    assert found == {
        "sglang": ["a:10 b:10", "a b", "b", "c:10"],
        "continuous": ["a:10 b:10", "a b", "c:10 b", "b c"],
    }


# ---------------------------------------------------------------------- the estimate


def test_the_new_token_ratio_decides_who_gets_in():
    # After a's prompt (10 tokens): available 110 - 10 = 100, reserved (100 - 1) * 0.7 = 69.3, left 30.7.
    # b needs 20 + 10 = 30: in.  With one block less 29.7 are left: it waits, though vLLM would take it.
    for blocks, second in ((110, "b:20"), (109, "a")):
        bench = Bench(blocks=blocks)
        bench.add("a", 10, 100)
        bench.step()
        bench.add("b", 20, 10)
        assert bench.step() == second
    bench = Bench(blocks=109, name="continuous")
    bench.add("a", 10, 100)
    bench.step()
    bench.add("b", 20, 10)
    assert bench.step() == "b:20 a"


def test_less_conservative_lets_more_in():
    # 0.5 * 0.7 * 99 = 34.65 reserved of 99: 64.35 > 30.
    bench = Bench(blocks=109, schedule_conservativeness=0.5)
    bench.add("a", 10, 100)
    bench.step()
    bench.add("b", 20, 10)
    assert bench.step() == "b:20"


def test_at_most_4096_new_tokens_are_expected():
    # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION: 10 + 4096 of 8950 - 0.7 * 199, where 10 + 9000 would not fit.
    bench = Bench(blocks=9050)
    bench.add("a", 100, 200)
    bench.step()
    bench.add("b", 10, 9000)
    assert bench.step() == "b:10"


def test_the_door_stays_closed_until_somebody_goes():
    # NO_TOKEN raises batch_is_full: c, which would fit and by its short prompt comes first, is not tried.
    bench = Bench(blocks=109, schedule_policy="shortest-prefill-first")
    bench.add("a", 10, 6)
    bench.add("x", 10, 60)
    bench.step()
    bench.add("b", 20, 60)
    assert bench.step() == "a x"  # b: 80 is not less than 89 - 0.7 * (5 + 59)
    bench.add("c", 1, 1)
    assert bench.steps(6) == ["a x", "a x", "a x", "a x", "x", "c:1"]


def test_the_ratio_decays_in_600_steps_to_14_percent():
    ratio = NewTokenRatio(1.0)
    assert ratio.value == 0.7
    ratio.count(300)
    assert ratio.value == pytest.approx(0.7 * (1 + 0.14) / 2)
    ratio.count(5000)
    assert ratio.value == pytest.approx(0.7 * 0.14)
    ratio.count(-5000)
    assert ratio.value == pytest.approx(0.7 * (1 + 0.14) / 2)
    ratio.reset()
    assert ratio.value == 0.7
    assert NewTokenRatio(3.0).value == 1.0


def test_a_retraction_raises_the_ratio_to_its_estimate():
    # ScheduleBatch.retract_decode: (10 + 20 decoded + 20 steps for each of two) / (100 + 100 at most + 1).
    ratio = NewTokenRatio(1.0)
    ratio.count(600)
    ratio.estimate([(10, 100), (20, 100)])
    assert ratio.value == pytest.approx(70 / 201)
    ratio.estimate([(13, 14)])
    assert ratio.value == 1.0


# ---------------------------------------------------------------------- retraction


def long_and_short(bench: Bench, output: int = 20) -> None:
    """Let a long prompt in, and then a short one."""
    bench.add("long", 30, output)
    bench.step()
    bench.add("short", 10, output)
    bench.step()


def test_the_longest_of_equal_outputs_is_retracted_and_not_the_last_admitted():
    # retract_decode sorts by (output tokens, -prompt tokens): both have 12 outputs (long had to wait for the prompt of
    # short) when 40 + 2 * 12 = 64 of 65 blocks are taken: long goes.  vLLM preempts short, the last admitted.
    bench = Bench(blocks=65, schedule_conservativeness=0.0)
    long_and_short(bench)
    bench.steps(12)
    assert bench.step() == "short -long"
    assert bench.waiting() == "long"

    other = Bench(blocks=65, name="continuous")
    long_and_short(other)
    assert next(step for step in other.steps(20) if "-" in step) == "long -short"


def test_who_has_the_fewest_outputs_is_retracted_first():
    # `old` has the longer prompt, but 6 outputs when `new` has none.  30 + 5 + 10 blocks are taken after the prompt of
    # `new`; ten steps later there are none left.
    bench = Bench(blocks=65, schedule_conservativeness=0.0)
    bench.add("old", 30, 24)
    bench.steps(6)
    bench.add("new", 10, 19)
    assert [step for step in bench.steps(14) if "-" in step] == ["old -new"]


def test_the_retracted_go_to_the_end_of_the_queue():
    # Scheduler._add_request_to_queue appends; vLLM prepends.
    bench = Bench(blocks=65, schedule_conservativeness=0.0, engine={"max_num_seqs": 2})
    long_and_short(bench)
    bench.add("third", 30, 20)
    bench.steps(13)
    assert bench.waiting() == "third long"


def test_the_prompt_of_the_retracted_is_found_again():
    # release_req frees what is not in the tree: the answer.  At 40 + 2 * 25 = 90 blocks there are none left; long's
    # answer gives 25 back, which is not less than 20 steps of the one that is left, so nothing is evicted.
    bench = Bench(blocks=90, schedule_conservativeness=0.0)
    long_and_short(bench, output=40)
    bench.steps(25)
    assert bench.step() == "short -long"
    assert bench.policy.cache.evictable == 30
    bench.steps(13)  # short ends; long, which would fit, was not believed to before
    assert bench.waiting() == "long"
    assert bench.step() == "long:26"
    assert bench.sequences["long"].found == 30


def test_room_for_20_steps_is_made_at_once():
    # The same with 65 blocks: 12 come back, and 20 are to be available, so long's prompt is evicted.
    bench = Bench(blocks=65, schedule_conservativeness=0.0)
    long_and_short(bench)
    bench.steps(13)
    assert bench.policy.cache.evictable == 0


# ---------------------------------------------------------------------- orders


def test_the_higher_priority_goes_first_unless_told_otherwise():
    # SchedulePolicy._sort_by_priority_and_fcfs; vLLM's lower value goes first.
    orders = {}
    for settings in ({}, {"schedule_low_priority_values_first": True}):
        bench = Bench(blocks=100, schedule_policy="priority", engine={"max_num_seqs": 1}, **settings)
        for name, priority in (("a", 1), ("b", 5), ("c", 1), ("d", 3)):
            bench.add(name, 5, 1, priority=priority)
        orders[bool(settings)] = bench.steps(4)
    assert orders == {False: ["b:5", "d:5", "a:5", "c:5"], True: ["a:5", "c:5", "d:5", "b:5"]}


def test_the_longest_cached_prefix_goes_first():
    bench = Bench(blocks=500, schedule_policy="lpm", engine={"max_num_seqs": 1})
    bench.add("warm", 60, 1, prefix=Prefix((1, 2), 20))
    bench.step()
    bench.add("none", 60, 1)
    bench.add("some", 60, 1, prefix=Prefix((1, 9), 20))
    bench.add("most", 60, 1, prefix=Prefix((1, 2, 9), 20))
    assert bench.steps(3) == ["most:20", "some:40", "none:60"]


def test_one_of_those_who_share_a_prompt_goes_ahead():
    # _compute_prefix_matches: nothing is cached, but second shares 40 >= 32 tokens with first, and goes last.
    bench = Bench(blocks=500, schedule_policy="lpm", engine={"max_num_seqs": 1})
    for name, content in (("first", 1), ("second", 1), ("other", 2)):
        bench.add(name, 60, 1, prefix=Prefix((content,), 40))
    assert bench.steps(3) == ["first:60", "second:20", "other:60"]
    bench = Bench(blocks=500, schedule_policy="lpm")
    for name, content in (("first", 1), ("second", 1), ("other", 2)):
        bench.add(name, 60, 1, prefix=Prefix((content,), 40))
    assert bench.step() == "first:60 other:60 second:60"


def test_long_queues_are_not_searched_for_prefixes():
    bench = Bench(blocks=500, schedule_policy="lpm", engine={"max_num_seqs": 1})
    bench.add("warm", 60, 1, prefix=Prefix((1, 2), 20))
    bench.step()
    for number in range(128):
        bench.add(f"{number}", 60, 1)
    bench.add("most", 60, 1, prefix=Prefix((1, 2, 9), 20))
    assert bench.steps(2) == ["0:60", "most:20"]  # 129 wait, then 128


def test_depth_first_by_weight_serves_the_busiest_branch_first():
    bench = Bench(blocks=500, schedule_policy="dfs-weight", engine={"max_num_seqs": 1})
    for name, content in (("x", 1), ("y", 2)):
        bench.add(name, 60, 1, prefix=Prefix((content,), 40))
    bench.steps(2)
    for name, content in (("none", 3), ("x1", 1), ("y1", 2), ("x2", 1), ("y2", 2), ("y3", 2)):
        bench.add(name, 60, 1, prefix=Prefix((content,), 40))
    bench.policy.waiting.order()
    assert bench.waiting() == "y1 y2 y3 x1 x2 none"


def test_longest_output_and_shortest_prompt_first():
    for policy, order in (("lof", "b c a"), ("shortest-prefill-first", "c a b")):
        bench = Bench(blocks=5000, schedule_policy=policy)
        for name, prompt, output in (("a", 20, 5), ("b", 30, 50), ("c", 10, 7)):
            bench.add(name, prompt, output)
        bench.policy.waiting.order()
        assert bench.waiting() == order


def test_random_order_comes_from_the_seed():
    orders = []
    for seed in (1, 1, 2):
        bench = Bench(blocks=5000, schedule_policy="random", seed=seed)
        for number in range(20):
            bench.add(f"{number}", 5, 5)
        bench.policy.waiting.order()
        orders.append(bench.waiting())
    assert orders[0] == orders[1] != orders[2]


def test_prefix_orders_without_a_cache_are_first_come_first_served():
    # SchedulePolicy._validate_and_adjust_policy
    bench = Bench(blocks=500, schedule_policy="lpm", engine={"enable_prefix_caching": False})
    for name in "ba":
        bench.add(name, 60, 1, prefix=Prefix((1,), 40))
    assert bench.step() == "b:60 a:60"


# ---------------------------------------------------------------------- against a slow one


@pytest.mark.parametrize("seed", many(150))
def test_decisions_are_those_of_the_plain_loop(seed):
    draw = random.Random(seed)
    asked = [(f"{number}", draw.randint(1, draw.choice([10, 80])), draw.randint(1, draw.choice([3, 60])))
             for number in range(draw.randint(1, 30))]  # fmt: skip
    blocks = max(prompt + output for _, prompt, output in asked) + draw.choice([2, 20, 60, 300])
    seats, chunk = draw.choice([2, 4, 32]), draw.choice([None, 16, 50])
    most, conservativeness = draw.choice([60, 16384]), draw.choice([0.0, 0.2, 1.0])
    bench = Bench(
        blocks=blocks, engine={"enable_prefix_caching": False, "max_num_seqs": seats}, max_prefill_tokens=most,
        chunked_prefill_size=-1 if chunk is None else chunk, schedule_conservativeness=conservativeness,
    )  # fmt: skip
    plain = PlainSGLang(blocks, chunk=chunk, most_prompt=most, seats=seats, conservativeness=conservativeness)
    steps = 0
    while asked or plain.waiting or any(not one.ended for one in plain._all()):
        while asked and draw.random() < 0.3:
            name, prompt, output = asked.pop(0)
            bench.add(name, prompt, output)
            plain.waiting.append(Asked(name, prompt, output))
        assert bench.step() == plain.step(), f"step {steps}"
        steps += 1
    assert bench.step() == "idle"
    assert bench.pool.free == blocks


@pytest.mark.parametrize("seed", many(30))
def test_clients_that_give_up_leave_nothing_behind(seed):
    draw = random.Random(seed)
    bench = Bench(
        blocks=200, chunked_prefill_size=16, enable_mixed_chunk=draw.random() < 0.5, schedule_conservativeness=0.0
    )
    for number in range(150):
        if draw.random() < 0.4:
            bench.add(f"{number}", draw.randint(1, 60), draw.randint(1, 60), prefix=drawn_prefix(draw))
        here = [*bench.policy.running, *bench.policy.waiting]
        if here and draw.random() < 0.2:
            bench.policy.remove(draw.choice(here))
        bench.step()
    while bench.step() != "idle":
        pass
    assert not bench.policy.running
    assert not bench.policy.waiting
    assert bench.pool.free == bench.pool.blocks


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule_policy": "hrrn"},
            r"scheduler.schedule_policy: unknown policy \(got 'hrrn'\)\nhint: known: fcfs, lpm",
        ),
        ({"chunked_prefill_size": 0}, r"scheduler.chunked_prefill_size: at least one page of 1 tokens.*got 0"),
        ({"max_prefill_tokens": 0}, r"scheduler.max_prefill_tokens: at least 1 \(got 0\)"),
        ({"schedule_conservativeness": -1.0}, r"scheduler.schedule_conservativeness: .*got -1"),
        ({"schedule_policy": "lpm", "enable_priority_scheduling": True}, r"only with .*got lpm"),
        ({"engine": {"scheduling_policy": "priority"}}, r"engine.scheduling_policy: sglang has orders of its own"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ScenarioError, match=message):
        Bench(blocks=10, **settings)


def test_pipelines_are_refused():
    with pytest.raises(InfeasibleError, match="scheduler sglang: pipeline stages"):
        Bench(blocks=10, engine={"pipeline_parallel_size": 2})


# ---------------------------------------------------------------------- never hang, never lose

MODES = [
    pytest.param(ahead, mixed, id=f"{'overlap' if ahead else 'plain'}-{'mixed' if mixed else 'apart'}")
    for ahead in (False, True)
    for mixed in (False, True)
]


def served(requests: list[Request], *, blocks: int, ahead: bool, engine: dict | None = None, **settings):
    """Run; every request must finish with all its tokens, and all blocks must come back."""
    plain = {"block_size": 1, "async_scheduling": ahead, "enable_prefix_caching": True, "max_model_len": 100_000}
    records, replica = run(
        requests,
        engine=options(**{**plain, **(engine or {})}),
        blocks=blocks,
        scheduler=lambda opts, pool: SGLangScheduling(opts, pool, **settings),
    )
    wanted = {request.id: request.output_tokens for request in requests}
    assert {record.id: record.output_tokens for record in records} == wanted
    assert all(record.status == "finished" for record in records)
    assert replica.pool.free == replica.pool.blocks
    return records


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_a_storm_of_retractions_ends(ahead, mixed):
    requests = [Request(f"{number}", 0.001 * number, 5, 60) for number in range(20)]
    records = served(requests, blocks=80, ahead=ahead, enable_mixed_chunk=mixed, schedule_conservativeness=0.0)
    assert sum(record.preemptions for record in records) > 0


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_two_that_do_not_fit_together(ahead, mixed):
    requests = [Request("a", 0.0, 40, 61), Request("b", 0.0, 40, 61)]
    served(requests, blocks=100, ahead=ahead, enable_mixed_chunk=mixed, schedule_conservativeness=0.0)


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_an_exact_fit(ahead, mixed):
    requests = [Request(f"{number}", 0.0, 90, 11) for number in range(3)]
    served(requests, blocks=100, ahead=ahead, enable_mixed_chunk=mixed, chunked_prefill_size=32)


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_a_huge_answer(ahead, mixed):
    requests = [Request("huge", 0.0, 10, 9991), Request("small", 0.1, 10, 5), Request("next", 0.2, 9000, 5)]
    served(requests, blocks=10_000, ahead=ahead, enable_mixed_chunk=mixed)


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_a_long_prompt_in_chunks_beside_those_who_take_its_blocks(ahead, mixed):
    requests = [Request(f"{number}", 0.0, 2, 90) for number in range(8)] + [Request("long", 0.05, 600, 5)]
    served(
        requests, blocks=700, ahead=ahead, enable_mixed_chunk=mixed, schedule_conservativeness=0.0,
        chunked_prefill_size=16,
    )  # fmt: skip


@pytest.mark.parametrize(("ahead", "mixed"), MODES)
def test_equal_prompts_all_in_the_cache(ahead, mixed):
    requests = [
        Request(f"{number}", 0.01 * number, 64, 1 + number % 3, prefix=Prefix((1,), 64)) for number in range(30)
    ]
    records = served(requests, blocks=200, ahead=ahead, enable_mixed_chunk=mixed)
    assert sum(record.cached_tokens == 63 for record in records) > 20


@pytest.mark.parametrize("policy", POLICIES)
def test_every_order_serves_all(policy):
    requests = [Request(f"{number}", 0.002 * number, 1 + 7 * number % 40, 1 + number % 9) for number in range(40)]
    served(requests, blocks=120, ahead=True, schedule_policy=policy)


# ---------------------------------------------------------------------- leaping is stepping


def drawn_prefix(draw: random.Random) -> Prefix | History | None:
    """Draw what a request shares with others."""
    kind = draw.randint(0, 4)
    if kind == 0:
        return None
    chat = draw.randint(0, 3)
    if kind == 1:
        return History((), f"chat {chat}")
    if kind == 2:
        return History(((f"system {chat % 2}", draw.choice([20, 50])),), f"chat {chat}")
    ids = tuple(10 * depth + draw.randint(0, 1) for depth in range(draw.randint(1, 6)))
    return Prefix(ids, draw.choice([16, 24]), answer=draw.random() < 0.5)


def scenario(seed: int) -> tuple[dict, dict]:
    """Draw a scenario in which blocks are scarce, and the settings of the scheduler."""
    draw = random.Random(seed)
    shared = draw.random() < 0.6
    requests = []
    clock = draw.choice([0.0, 0.0, 1e6])
    for number in range(draw.randint(2, 60)):
        clock += draw.choice([0.0, 0.0, draw.expovariate(30.0), draw.expovariate(5.0), 0.01, 0.02])
        requests.append(
            Request(str(number), clock, draw.randint(1, draw.choice([5, 60, 200])),
                    draw.randint(1, draw.choice([2, 30, 200])), priority=draw.randint(0, 2),
                    prefix=drawn_prefix(draw) if shared else None)
        )  # fmt: skip
    page = draw.choice([1, 1, 1, 4, 16])
    windows = draw.choice([(), (), (), (), (40,)])
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    blocks = -(-(longest - 1) // page) * (1 + len(windows)) + draw.choice([0, 0, 1, 10, 30, 100])
    settings = {
        "schedule_policy": draw.choice(["fcfs", "fcfs", *POLICIES]),
        "enable_mixed_chunk": draw.random() < 0.4,
        "schedule_conservativeness": draw.choice([0.0, 0.0, 0.3, 1.0]),
        "chunked_prefill_size": draw.choice([None, -1, 16, 64, 512]),
        "max_prefill_tokens": draw.choice([100, 16384]),
        "seed": seed,
    }
    engine = options(
        max_num_seqs=draw.choice([1, 3, 8, 32]),
        max_num_batched_tokens=draw.choice([32, 64, 256]),
        block_size=page,
        async_scheduling=draw.random() < 0.5,
        enable_prefix_caching=draw.random() < 0.8,
    )
    plain = FLAT if draw.random() < 0.4 else {"host": draw.choice([0.0, 0.012])}
    prices = [PlainPrices((None, *windows), **plain)]
    return {"requests": requests, "engine": engine, "blocks": blocks, "windows": windows, "prices": prices}, settings


class Watched(SGLangScheduling):
    """The scheduler, with a look at its books after every decision."""

    def next_batch(self) -> Batch | None:
        batch = super().next_batch()
        assert 0 <= self.cache.evictable <= self.pool.free <= self.pool.blocks
        assert len(self.running) <= self.seats
        if batch is not None and self._chunk is not None:
            prompts = [(one, tokens) for one, tokens in batch.chunks if one in self._unread]
            assert sum(tokens for _, tokens in prompts) <= max(self._chunk, self.pool.block_size)
            assert sum(one.remaining > tokens for one, tokens in prompts) <= 1
        return batch


@pytest.mark.parametrize("seed", many(250))
def test_leaping_gives_the_records_of_stepping(seed):
    drawn, settings = scenario(seed)
    runs = []
    for leap in (True, False):
        made: list[Watched] = []

        def make(engine, pool, leap=leap, made=made):
            made.append(Watched(engine, pool, leap=leap, **settings))
            return made[0]

        records, replica = run(**drawn, scheduler=make)
        runs.append(([astuple(record) for record in records], replica.steps, int(replica.log.gaps()[1].sum())))
        assert len(records) == len(drawn["requests"])
        assert all(record.status == "finished" for record in records)
        assert replica.pool.free == replica.pool.blocks
    assert runs[0] == runs[1]
    assert runs[0][2] == sum(one.output_tokens - 1 for one in drawn["requests"])
