"""A slow SGLang scheduler, request by request and step by step, to compare the real one with.

It follows the order of events of SGLang 0.5's loop without overlap (`Scheduler.event_loop_normal`), keeps the lists
that SGLang keeps, and knows no groups, no leaps, no cache (``--disable-radix-cache``) and pages of one token.
"""

from __future__ import annotations


class Asked:
    """One request."""

    def __init__(self, name: str, prompt: int, most: int) -> None:
        self.name = name
        self.prompt = prompt
        self.most = most
        self.outputs = 0
        self.held = 0  # tokens in the cache

    @property
    def ended(self) -> bool:
        return self.outputs >= self.most

    @property
    def left(self) -> int:
        return min(self.most - self.outputs, 4096)

    @property
    def text(self) -> int:
        return self.prompt + self.outputs


class PlainSGLang:
    """`waiting_queue`, `running_batch`, `chunked_req` and `batch_is_full`, first come, first served."""

    def __init__(
        self, capacity: int, *, chunk: int | None, most_prompt: int, seats: int, conservativeness: float
    ) -> None:
        self.capacity, self.chunk, self.most_prompt, self.seats = capacity, chunk, most_prompt, seats
        self.waiting: list[Asked] = []
        self.running: list[Asked] = []
        self.last: list[Asked] | None = None  # the last batch, if it was one of prompts
        self.chunked: Asked | None = None
        self.full = False
        self.first_ratio = self.ratio = min(0.7 * conservativeness, 1.0)
        self.least_ratio = 0.14 * self.ratio

    def free(self) -> int:
        """Return the tokens that are available."""
        return self.capacity - sum(one.held for one in self._all())

    def _all(self) -> list[Asked]:
        return list(dict.fromkeys([*self.running, *(self.last or ()), *([self.chunked] if self.chunked else ())]))

    def step(self) -> str:
        """Run one step; say what it computed, as the tests' `Bench` does."""
        for _ in range(3):  # turns of the loop without a batch take no time
            self._merge()
            told = self._prefill() or self._decode()
            if told:
                return told
        self.ratio = self.first_ratio
        return "idle"

    def _merge(self) -> None:
        if self.last is None:
            return
        kept = [one for one in self.last if not one.ended and one is not self.chunked]
        if len(kept) < len(self.last):
            self.full = False
        if kept:
            if not self.running:
                self.full = False
            self.running = self.running + kept
        self.last = None

    def _prefill(self) -> str:
        if (self.full or not self.waiting) and self.chunked is None:
            return ""
        if len(self.running) >= self.seats and self.chunked is None:
            self.full = True
            return ""
        reserved = sum(one.left for one in self.running) * self.ratio
        current = 0
        prompt_left, chunk_left = self.most_prompt, self.chunk
        run: list[tuple[Asked, int]] = []
        free = self.free()
        if self.chunked is not None:
            one = self.chunked
            most = min(chunk_left, int(free - reserved))
            most = chunk_left if most <= 0 else most
            tokens = min(one.text - one.held, most)
            whole = tokens == one.text - one.held
            run.append((one, tokens))
            reserved += tokens + (one.left if whole else 0)
            current += tokens
            prompt_left, chunk_left = prompt_left - tokens, chunk_left - tokens
            self.chunked = None if whole else one
        for one in self.waiting:
            if len(run) >= self.seats - len(self.running):
                self.full = True
            if self.full:
                break
            if one.text + one.left >= free - reserved:
                self.full = True
                break
            if one.text >= prompt_left and run:
                break
            tokens = one.text
            if chunk_left is not None and tokens > chunk_left:
                tokens = chunk_left
                if tokens <= 0:
                    break
                self.chunked = one
            run.append((one, tokens))
            reserved += tokens + (one.left if tokens == one.text else 0)
            current += tokens
            prompt_left -= tokens
            if chunk_left is not None:
                chunk_left -= tokens
            if free - reserved <= 0 or free - current <= 0:
                self.full = True
                break
            if prompt_left <= 0 or (chunk_left is not None and chunk_left <= 0):
                break
        if not run:
            return ""
        for one, tokens in run:
            if one in self.waiting:
                self.waiting.remove(one)
            one.held += tokens
        self.last = [one for one, _ in run]
        for one, _ in run:
            if one is not self.chunked:
                self._sampled(one)
        assert self.free() >= 0
        return " ".join(f"{one.name}:{tokens}" for one, tokens in run)

    def _sampled(self, one: Asked) -> None:
        one.outputs += 1
        if one.ended:
            one.held = 0

    def _decode(self) -> str:
        if not self.running:
            return ""
        before = len(self.running)
        self.running = [one for one in self.running if not one.ended]
        if not self.running:
            self.full = False
            return ""
        gone: list[Asked] = []
        if self.free() < len(self.running):
            order = sorted(self.running, key=lambda one: (one.outputs, -one.prompt), reverse=True)
            while len(order) > 1:
                victim = order.pop()
                victim.held = 0
                gone.append(victim)
                if self.free() >= len(order):
                    break
            self.running = [one for one in self.running if one in order]
            decoded = sum(one.outputs for one in order) + 20 * len(order)
            self.ratio = min(1.0, decoded / (sum(one.most for one in order) + 1))
            self.waiting += gone
        else:
            self.ratio = max(self.ratio - (self.first_ratio - self.least_ratio) / 600, self.least_ratio)
        if len(self.running) < before:
            self.full = False
        told = sorted(one.name for one in self.running)
        for one in self.running:
            one.held += 1
            self._sampled(one)
        assert self.free() >= 0
        return " ".join([*told, *(f"-{one.name}" for one in gone)])
