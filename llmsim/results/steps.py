"""The step log of one replica: one row for each batch that ran, in columns of plain numbers.

A row stands for a batch that ran for `steps` engine steps (a leap is one row).  The durations of its steps
run linearly from `first_step_s` to `last_step_s`, because all that grows within a leap is the context, by the
same number of tokens each step.

The log also answers which gaps there were between tokens.  Each of the `regular` sequences of a row got one
token per step, one step's duration after its last one.  All other gaps, such as the one that a preemption
tears, are logged apart (`StepLog.gap`), and so are first tokens, which end no gap (`StepLog.first_tokens`).
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from llmsim.results.speculation import SpeculationLog

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COLUMNS = (
    "start_s",  # when the batch began
    "end_s",  # when its last step ended, and so when the clients got that step's tokens
    "steps",  # engine steps that it ran
    "decodes",  # sequences that decode
    "context",  # tokens that they attend to in the first step, summed over the sequences
    "prefill_tokens",  # prompt tokens computed (in a batch with any, steps is 1)
    "prefill_sequences",  # sequences that these belong to
    "first_step_s",  # duration of the first step
    "last_step_s",  # duration of the last step
    "running",  # sequences admitted, as the batch began
    "waiting",  # sequences in the queue, as the batch began
    "blocks_used",  # blocks of the cache that are taken
    "tokens_padded",  # tokens of a step after padding to the size of a captured graph
    "sampled_rows",  # rows that go through LM head and sampler in a step
    "attention_s",  # attention's part of the first step
    "attention_compute_share",  # the part of that which compute bounds, 0..1
    "busy_s",  # seconds that a stage works on one step, on average over stages and steps
    "regular",  # sequences with one token in each step and a gap equal to the step's duration
)

_pack = struct.Struct(f"{len(COLUMNS)}d").pack


class StepLog:
    """An append-only log of the batches of one replica.

    Rows go in the order in which batches end.  `append` sits in the engine's innermost loop: it packs the row
    into bytes and does nothing else; the arrays are made afterwards, by `columns`.
    """

    __slots__ = ("_chunks", "_columns", "_first_tokens", "_gaps", "_rows", "speculation", "stage_moments")

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._gaps: list[tuple[float, int, int]] = []
        self._first_tokens: list[tuple[int, int]] = []
        self._chunks: list[tuple[float, float]] | None = None
        self._columns: dict[str, Floats] | None = None
        self.speculation: SpeculationLog | None = None  # one entry for each row, where drafts are verified
        self.stage_moments: Floats | None = None  # of a pipeline: begin and end [rows, stages, 2] on each stage

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: tuple[float, ...]) -> None:
        """Add a row of as many numbers as there are `COLUMNS`, in their order.

        Raises:
            struct.error: the row is too long or too short.
        """
        self._rows.append(_pack(*row))

    def gap(self, seconds: float, count: int = 1) -> None:
        """Log that ``count`` tokens of the row appended last came ``seconds`` after their sequences' last ones."""
        self._gaps.append((seconds, count, len(self._rows) - 1))

    def first_tokens(self, count: int = 1) -> None:
        """Log that ``count`` sequences got their first token from the row appended last."""
        self._first_tokens.append((count, len(self._rows) - 1))

    def in_chunks(self) -> None:
        """Say that clients get their tokens in chunks, which are logged by `chunk`."""
        self._chunks = []

    def chunk(self, seconds: float, start_s: float) -> None:
        """Log that a client got a chunk ``seconds`` after the last one, from a step that began at ``start_s``."""
        assert self._chunks is not None
        self._chunks.append((seconds, start_s))

    def columns(self) -> dict[str, Floats]:
        """Return the log as one array of floats [rows] for each of the `COLUMNS`."""
        if self._columns is None or len(self._columns["start_s"]) != len(self._rows):
            table = np.frombuffer(b"".join(self._rows), dtype=np.float64).reshape(-1, len(COLUMNS))
            self._columns = {name: np.ascontiguousarray(table[:, index]) for index, name in enumerate(COLUMNS)}
        return self._columns

    def gaps(self, since_s: float = -math.inf) -> tuple[Floats, Integers]:
        """Return all inter-token gaps in seconds, and how many tokens came after each: two arrays, not sorted.

        Batches that began before ``since_s`` are left out.

        The gaps of a row's regular sequences are one entry per step with the number of sequences as its weight,
        so a log of a million tokens in batches of forty takes 25,000 entries.
        """
        row, durations = self._regular_steps()
        weights = self.columns()["regular"][row].astype(np.int64)
        start = self.columns()["start_s"]
        if since_s > -math.inf:
            kept = start[row] >= since_s
            durations, weights = durations[kept], weights[kept]
        others = [(seconds, count) for seconds, count, index in self._gaps if start[index] >= since_s]
        irregular = np.array([seconds for seconds, _ in others], dtype=np.float64)
        counts = np.array([count for _, count in others], dtype=np.int64)
        return np.concatenate((durations, irregular)), np.concatenate((weights, counts))

    def client_gaps(self, since_s: float = -math.inf) -> tuple[Floats, Integers]:
        """Return the gaps that clients see, as `gaps` does: between chunks, where tokens are streamed in chunks."""
        if self._chunks is None:
            return self.gaps(since_s)
        seconds = [gap for gap, start_s in self._chunks if start_s >= since_s]
        return np.array(seconds, dtype=np.float64), np.ones(len(seconds), dtype=np.int64)

    def gap_starts(self, since_s: float = -math.inf) -> Floats:
        """Return for each entry of `client_gaps` when the batch that ended it began, in seconds."""
        if self._chunks is not None:
            starts = np.array([start_s for _, start_s in self._chunks], dtype=np.float64)
        else:
            rows = np.concatenate((self._regular_steps()[0], [index for _, _, index in self._gaps])).astype(np.int64)
            starts = self.columns()["start_s"][rows]
        return starts[starts >= since_s]

    def tokens(self) -> tuple[Floats, Integers]:
        """Return when output tokens came, in seconds, and how many at that moment: two arrays, not sorted."""
        columns = self.columns()
        row, durations = self._regular_steps()
        # A step ends as long before its row's end as the steps after it take.
        after = np.cumsum(durations)
        last = np.cumsum(np.bincount(row, minlength=len(self))).astype(np.int64)[row] - 1
        regular_times = columns["end_s"][row] - (after[last] - after) if len(row) else durations
        others = [(index, count) for _, count, index in self._gaps]
        others += [(index, count) for count, index in self._first_tokens]
        if self.speculation is not None:
            others += [(index, count) for count, index in zip(*self.speculation.surplus(), strict=True)]
        other_rows = np.array([index for index, _ in others], dtype=np.int64)
        other_counts = np.array([count for _, count in others], dtype=np.int64)
        times = np.concatenate((regular_times, columns["end_s"][other_rows]))
        return times, np.concatenate((columns["regular"][row].astype(np.int64), other_counts))

    def steps(self) -> int:
        """Return the number of engine steps that ran."""
        return int(self.columns()["steps"].sum())

    def _regular_steps(self) -> tuple[Integers, Floats]:
        """Return the row and the duration in seconds of every step in which a sequence got a regular token."""
        columns = self.columns()
        rows = np.flatnonzero(columns["regular"] > 0)
        steps = columns["steps"][rows].astype(np.int64)
        row = np.repeat(rows, steps)
        step = np.arange(len(row)) - np.repeat(np.cumsum(steps) - steps, steps)
        first, last = columns["first_step_s"], columns["last_step_s"]
        slope = (last - first) / np.maximum(columns["steps"] - 1, 1)
        return row, first[row] + slope[row] * step
