"""A slow prefix cache of single blocks, and random operations on it and on the real one at once."""

from __future__ import annotations

import random

from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import History, Prefix, Request


def asked(prompt: int, ids, span: int, *, name: str = "r", output: int = 1) -> Request:
    return Request(name, 0.0, prompt, output, prefix=Prefix(tuple(ids), span))


def token(request: Request, place: int) -> tuple[object, int]:
    """Return what stands for the token at ``place`` of prompt and answer: equal things are equal tokens."""
    prefix = request.prefix
    if isinstance(prefix, History):
        for name, count in prefix.parts:
            if place < count:
                return name, place
            place -= count
        return prefix.name, place
    covered = 0
    if prefix is not None:
        most = request.prompt_tokens + request.output_tokens if prefix.answer else request.prompt_tokens
        covered = min(most, len(prefix.hash_ids) * prefix.block_tokens)
    if prefix is not None and place < covered:
        return prefix.hash_ids[place // prefix.block_tokens], place % prefix.block_tokens
    return request.id, place


class PlainBlock:
    def __init__(self) -> None:
        self.hash: int | None = None
        self.holders = 0


class PlainCache:
    """Every block is an object, every token has a content, and the free blocks are one list: as vLLM has it."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.size = block_size
        self.queue = [PlainBlock() for _ in range(blocks)]
        self.cached: dict[int, list[PlainBlock]] = {}
        self.hashes: dict[tuple, int] = {}
        self.held: dict[str, list[PlainBlock]] = {}

    def chain(self, request: Request, tokens: int) -> list[int]:
        """Return the hashes of the full blocks among a request's first tokens."""
        hashes, parent = [], 0
        for start in range(0, tokens - self.size + 1, self.size):
            content = tuple(token(request, place) for place in range(start, start + self.size))
            parent = self.hashes.setdefault((parent, content), len(self.hashes) + 1)
            hashes.append(parent)
        return hashes

    def match(self, sequence: Sequence) -> list[PlainBlock]:
        found = []
        for name in self.chain(sequence.request, sequence.total - 1):
            if name not in self.cached:
                break
            found.append(self.cached[name][0])
        return found

    def take(self, sequence: Sequence) -> None:
        held = self.held[sequence.request.id] = self.match(sequence)
        for block in held:
            if not block.holders:
                self.queue.remove(block)
            block.holders += 1

    def allocate(self, sequence: Sequence, count: int) -> None:
        for _ in range(count):
            block = self.queue.pop(0)
            if block.hash is not None:
                self.cached[block.hash].remove(block)
                if not self.cached[block.hash]:
                    del self.cached[block.hash]
                block.hash = None
            block.holders = 1
            self.held[sequence.request.id].append(block)

    def name(self, sequence: Sequence, tokens: int) -> None:
        held = self.held[sequence.request.id]
        for block, name in zip(held, self.chain(sequence.request, tokens), strict=False):
            if block.hash is None:
                block.hash = name
                self.cached.setdefault(name, []).append(block)

    def release(self, sequence: Sequence, known: int) -> None:
        self.name(sequence, known)
        freed = []
        for block in reversed(self.held.pop(sequence.request.id)):
            block.holders -= 1
            if not block.holders:
                freed.append(block)
        self.queue = [
            *(block for block in freed if block.hash is None),
            *self.queue,
            *(block for block in freed if block.hash is not None),
        ]


class Both:
    """The cache and its slow double under the same random operations."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.size = draw.choice([1, 2, 4, 4, 6])
        self.span = draw.choice([1, 2, 4, 4, 8, 6])
        self.blocks = draw.choice([8, 15, 30, 80])
        self.longest = self.blocks * self.size * draw.choice([0.3, 0.6, 1.0])
        self.branches = draw.choice([1, 1, 2, 3])
        self.shared = draw.choice([0.3, 0.8, 1.0])
        self.chatty = draw.choice([0.0, 0.5, 1.0])
        self.said: list[Request] = []  # the turns that have ended
        self.cache, self.plain = PrefixCache(self.blocks, self.size), PlainCache(self.blocks, self.size)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.made = 0
        self.hits = self.own_hits = self.evictions = self.answers = 0
        self.answered: dict[History, int] = {}  # the shortest prompt that an answer followed

    def submit(self) -> None:
        """Let a request come: with identifiers in front, or as a turn of a session, or with neither."""
        draw, prefix = self.draw, None
        output = draw.randint(1, 3 * self.size)
        prompt = draw.randint(1, max(1, int(self.longest * draw.random())))
        if draw.random() < self.chatty:
            prompt, prefix = self.turn(prompt)
        elif draw.random() < self.shared:
            most = -(-prompt // self.span)
            count = most if draw.random() < 0.5 else draw.randint(1, most)
            answer = draw.random() < 0.3
            if answer:
                count = -(-(prompt + output) // self.span)
            prefix = Prefix(tuple(draw.randrange(self.branches) for _ in range(count)), self.span, answer)
        self.waiting.append(Sequence(Request(f"r{self.made}", 0.0, prompt, output, prefix=prefix), output))
        self.made += 1

    def turn(self, fresh: int) -> tuple[int, History]:
        """Return prompt and history of a turn that begins, goes on with, forks or forgets what was said before."""
        draw = self.draw
        name = f"s{self.made}"
        chance = draw.random()
        if not self.said or chance < 0.2:
            count = draw.choice([0, 1, self.size, self.size + 1, 2 * self.size])
            parts = ((f"system {draw.randrange(2)}", count),) if count else ()
            return count + fresh, History(parts, name)
        request = draw.choice(self.said)
        before = request.prefix
        assert isinstance(before, History)
        told = request.prompt_tokens + request.output_tokens
        prompt = told + draw.randint(1, 2 * self.size)
        front = sum(count for _, count in before.parts)
        if prompt > self.blocks * self.size - 3 * self.size or chance < 0.3:  # the oldest turns go: all tokens move
            return front + fresh, History(before.parts, name)
        if chance < 0.5:  # a fork, behind the answer or in the middle of it
            kept = draw.randint(front + 1, told) - front
            return front + kept + fresh, History((*before.parts, (before.name, kept)), name)
        return prompt, before

    def compare_match(self, sequence: Sequence) -> tuple[int, int]:
        mine, plain = self.cache.match(sequence), self.plain.match(sequence)
        assert mine == (len(plain), sum(not block.holders for block in plain))
        assert mine[0] * self.size < sequence.total
        return mine

    def admit(self) -> None:
        if not self.waiting:
            return self.submit()
        sequence = self.draw.choice(self.waiting)
        hits, free = self.compare_match(sequence)
        tokens = self.draw.randint(1, sequence.total - hits * self.size)
        blocks = -(-(hits * self.size + tokens) // self.size)
        if blocks - hits > self.cache.free - free:
            return None
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self.hits += hits
        prefix = sequence.request.prefix
        if isinstance(prefix, History) and prefix in self.answered and not sequence.generated:
            self.answers += hits * self.size > self.answered[prefix]
        self.own_hits += bool(hits and sequence.own_run is not None and sequence.own_run.count)
        sequence.computed = hits * self.size
        if hits or self.draw.random() < 0.5:  # the scheduler does not call `take` without hits
            self.cache.take(sequence, hits)
        self.plain.take(sequence)
        sequence.blocks = hits
        return self.compute(sequence, tokens)

    def compute(self, sequence: Sequence, tokens: int) -> None:
        new = -(-(sequence.computed + tokens) // self.size) - sequence.blocks
        if new > self.cache.free:
            return self.release(sequence, preempt=True)
        sequence.blocks += new
        self.cache.free -= new
        self.evictions += sum(block.hash is not None for block in self.plain.queue[:new])
        self.plain.allocate(sequence, new)
        sequence.computed += tokens
        named = sequence.computed - bool(sequence.generated)
        if not sequence.generated or self.draw.random() < 0.5:
            self.cache.name(sequence, named)
            self.plain.name(sequence, named)
        if sequence.computed == sequence.total:
            sequence.total += 1
            sequence.generated += 1
        if sequence.done:
            self.release(sequence)
            if isinstance(sequence.request.prefix, History):
                self.said.append(sequence.request)
                self.answered.setdefault(sequence.request.prefix, sequence.request.prompt_tokens)
        return None

    def advance(self) -> None:
        if self.running:
            sequence = self.draw.choice(self.running)
            self.compute(sequence, self.draw.randint(1, sequence.remaining))

    def release(self, sequence: Sequence, *, preempt: bool = False) -> None:
        self.running.remove(sequence)
        known = sequence.computed
        if not sequence.done and known > sequence.request.prompt_tokens and self.draw.random() < 0.3:
            known -= 1  # its last token is still on the way
        self.cache.release(sequence, known)
        self.plain.release(sequence, known)
        if preempt:
            sequence.computed = 0
            sequence.preemptions += 1
            self.waiting.append(sequence)

    def step(self) -> None:
        draw = self.draw
        chance = draw.random()
        if chance < 0.15:
            self.submit()
        elif chance < 0.45:
            self.admit()
        elif chance < 0.9:
            self.advance()
        elif self.running:
            self.release(draw.choice(self.running), preempt=draw.random() < 0.8)
        assert self.cache.free == len(self.plain.queue)
        held = {id(block) for blocks in self.plain.held.values() for block in blocks}
        assert self.cache.free + len(held) == self.blocks
        if draw.random() < 0.2:  # not always: looking makes up for evictions that are late
            for sequence in self.waiting:
                self.compare_match(sequence)
