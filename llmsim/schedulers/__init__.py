"""Scheduling policies: who computes what in the next step of an engine."""

from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.static import StaticBatching

SCHEDULERS: dict[str, type[ContinuousBatching] | type[StaticBatching]] = {
    "continuous": ContinuousBatching,
    "static": StaticBatching,
}
