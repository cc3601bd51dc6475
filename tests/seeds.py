"""How many random scenarios a test plays: a part of them in the commit gate, all with LLMSIM_ALL_SEEDS=1."""

import os

GATE = 0.3


def many(count: int) -> range:
    """Return the seeds 0, 1, ...: ``count`` of them, or three in ten where time matters."""
    return range(count if os.environ.get("LLMSIM_ALL_SEEDS") else max(8, round(GATE * count)))
