"""The rows that an engine logs of its batches (columns: `llmsim.results.steps.COLUMNS`)."""

from collections.abc import Sequence

from llmsim.schedulers.batch import Batch

Row = tuple[float, ...]


def leap_row(batch: Batch, padded: Sequence[int]) -> Row:
    """Return the row of steps that only decode; ``padded`` is the size at which each number of sequences runs."""
    epoch, first, steps = batch.epoch, batch.first_step, batch.steps
    assert epoch is not None
    first_s = epoch.duration(first + 1)
    last_s = epoch.duration(first + steps) if steps > 1 else first_s
    count = epoch.count
    context = batch.contexts[0] if batch.count else sum(sequence.computed for sequence, _ in batch.chunks)
    return (
        batch.start_s, batch.end_s, steps, count, context, 0, 0, first_s, last_s, *batch.gauges,
        padded[count], count, 0.0, 0.0, 0.5 * (first_s + last_s), batch.regular,
    )  # fmt: skip


def step_row(batch: Batch) -> Row:
    """Return the row of a step with prompt tokens in it."""
    seconds, padded, attention_s, share = batch.price
    tokens = 0
    for _, chunk in batch.chunks:
        tokens += chunk
    count = batch.count
    return (
        batch.start_s, batch.end_s, 1, count, batch.contexts[0] if count else 0, tokens, len(batch.chunks),
        seconds, seconds, *batch.gauges, padded, count + len(batch.sampling), attention_s, share, seconds,
        batch.regular,
    )  # fmt: skip


def verified_row(batch: Batch) -> Row:
    """Return the row of a step in which drafts are verified; who is verified for nothing counts as decoding too."""
    assert batch.verified is not None
    seconds, padded, attention_s, share = batch.price
    wasted, wasted_tokens, wasted_context = batch.verified.wasted
    tokens = 0
    for _, chunk in batch.chunks:
        tokens += chunk
    context = batch.contexts[0] if batch.count else 0
    return (
        batch.start_s, batch.end_s, 1, batch.count + wasted, context + wasted_context, tokens, len(batch.chunks),
        seconds, seconds, *batch.gauges, padded, batch.verified.tokens + wasted_tokens + len(batch.sampling),
        attention_s, share, seconds, batch.regular,
    )  # fmt: skip


def round_row(batch: Batch, step: int, end_s: float, padded: Sequence[int]) -> Row:
    """Return the row of one step of a batch that went through a pipeline; a client waits for all stages."""
    assert batch.rounds is not None
    start_s, busy_s = batch.rounds[step]
    _, size, attention_s, share = batch.price
    count = batch.count
    return (
        start_s, end_s, 1, count, batch.contexts[0] + step * count if count else 0,
        sum(tokens for _, tokens in batch.chunks), len(batch.chunks) if size else 0,
        end_s - start_s, end_s - start_s, *batch.gauges, size or padded[count], count + len(batch.sampling),
        attention_s, share, busy_s, batch.regular,
    )  # fmt: skip
