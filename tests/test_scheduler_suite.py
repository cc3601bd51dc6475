"""The suite for schedulers of one's own: ours pass it, and each way to be wrong is found and named."""

from __future__ import annotations

from collections import deque

import pytest

from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.testing import check_scheduler

# Policies that let some requests wait for ever, as their docstrings say, and those without a budget of tokens.
MAY_STARVE = {"shortest_job_first", "earliest_deadline"}
NO_BUDGET = {"static", "orca"}
SETTINGS = {"adaptive": {"tpot_target_ms": 30}}


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_our_own_schedulers_keep_the_rules(name):
    check_scheduler(
        SCHEDULERS[name],
        keeps_budget=name not in NO_BUDGET,
        may_starve=name in MAY_STARVE,
        **SETTINGS.get(name, {}),
    )


class Plain:
    """First come, first served, one token of budget for each that decodes, all blocks reserved at admission."""

    def __init__(self, options, pool):
        self.options, self.pool, self.waiting, self.running = options, pool, deque(), {}

    def add(self, sequence):
        self.waiting.append(sequence)
        return True

    def next_batch(self):
        budget = self.options.max_num_scheduled_tokens
        chunks = []
        for sequence in self.running:
            tokens = 0 if sequence.done else min(sequence.remaining, budget)
            if tokens:
                chunks.append((sequence, tokens))
                budget -= tokens
        while self.waiting and budget and len(self.running) < self.options.max_num_seqs and self.fits():
            head = self.admit()
            chunks.append((head, min(head.total, budget)))
            budget -= chunks[-1][1]
        return Batch(chunks) if chunks else None

    def fits(self):
        head = self.waiting[0]
        return self.pool.most_held(head.total + head.target - 1) <= self.pool.free

    def admit(self):
        head = self.waiting.popleft()
        head.blocks = self.pool.most_held(head.total + head.target - 1)
        self.pool.free -= head.blocks
        self.running[head] = None
        return head

    def settle(self, batch, steps):
        for sequence in batch.ending:
            del self.running[sequence]
            self.pool.release(sequence, sequence.total - 1)
        return batch.ending


def test_a_plain_scheduler_keeps_the_rules():
    check_scheduler(Plain)


class Forgetful(Plain):
    def add(self, sequence):
        if sequence.request.id != "1":
            self.waiting.append(sequence)
        return True


class Greedy(Plain):
    def fits(self):
        return True


class Spendthrift(Plain):
    def next_batch(self):
        batch = super().next_batch()
        return Batch([(sequence, sequence.remaining) for sequence, _ in batch.chunks]) if batch else None


class Crowded(Plain):
    def __init__(self, options, pool):
        super().__init__(options, pool)
        self.options = type("Wide", (), {"max_num_scheduled_tokens": 64, "max_num_seqs": 100})


class Stuttering(Plain):
    def next_batch(self):
        batch = super().next_batch()
        return Batch([*batch.chunks, batch.chunks[0]]) if batch else None


class Hoarder(Plain):
    def settle(self, batch, steps):
        for sequence in batch.ending:
            del self.running[sequence]
        return batch.ending


class Borrower(Plain):
    def admit(self):
        head = super().admit()
        self.pool.free += head.blocks
        head.blocks = 0
        return head


class LastFirst(Plain):
    def add(self, sequence):
        self.waiting.appendleft(sequence)
        return True


class Moody(Plain):
    moods = 0

    def __init__(self, options, pool):
        super().__init__(options, pool)
        Moody.moods += 1

    def next_batch(self):
        if Moody.moods % 2:
            self.waiting.rotate(1)
        return super().next_batch()


class Hasty(ContinuousBatching):
    """Says of no newcomer that it matters."""

    def add(self, sequence):
        super().add(sequence)
        return False


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Forgetful, r"request 1 never ends"),
        (Greedy, r"blocks are taken|the blocks taken hold"),
        (Spendthrift, r"tokens in a step, the budget is"),
        (Crowded, r"sequences in a step of"),
        (Stuttering, r"a sequence is in a batch twice"),
        (Hoarder, r"never ends, and nothing goes on|are never given back"),
        (Borrower, r"\d+ tokens are computed, the blocks taken hold 0"),
        (LastFirst, r"it waits until the stream ends"),
        (Moody, r"the same workload gave other records"),
        (Hasty, r"leaping and stepping differ"),
    ],
)
def test_what_is_wrong_is_named(scheduler, message):
    with pytest.raises(AssertionError, match=message):
        check_scheduler(scheduler)


def test_who_may_starve_says_so():
    check_scheduler(LastFirst, may_starve=True)
