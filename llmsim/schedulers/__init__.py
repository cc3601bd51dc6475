"""Scheduling policies: who computes what in the next step of an engine."""

from collections.abc import Callable

from llmsim.schedulers.adaptive import AdaptiveBatching
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.orca import Orca
from llmsim.schedulers.orders.deadline import EarliestDeadline
from llmsim.schedulers.orders.fair import FairSharing
from llmsim.schedulers.orders.shortest_job import ShortestJobFirst
from llmsim.schedulers.protocol import Scheduler
from llmsim.schedulers.sarathi import Sarathi
from llmsim.schedulers.sglang import SGLangScheduling
from llmsim.schedulers.static import StaticBatching
from llmsim.schedulers.tensorrt_llm import InFlightBatching
from llmsim.schedulers.vllm_v0 import VllmV0

# Each is built as ``SCHEDULERS[name](options, pool, leap=..., **settings)``.
SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "continuous": ContinuousBatching,
    "static": StaticBatching,
    "vllm_v0": VllmV0,
    "orca": Orca,
    "sarathi": Sarathi,
    "sglang": SGLangScheduling,
    "tensorrt_llm": InFlightBatching,
    "shortest_job_first": ShortestJobFirst,
    "fair": FairSharing,
    "earliest_deadline": EarliestDeadline,
    "adaptive": AdaptiveBatching,
}
