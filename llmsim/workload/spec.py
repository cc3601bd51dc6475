"""What a scenario says about its workload, as plain data."""

from dataclasses import dataclass
from typing import Any, Literal

OnTooLong = Literal["reject", "truncate", "error"]

DEFAULT_NUM_PROMPTS = 1000  # as in `vllm bench serve`


@dataclass(slots=True)
class WorkloadSpec:
    """The `workload` section of a scenario; `llmsim.workload.build` reads the mappings and names what is wrong.

    ``dataset`` says how long prompts and outputs are, ``arrival`` when requests come, ``trace`` takes either or
    both from a file, ``closed_loop`` lets the end of one request start the next, ``sessions`` lets turns build on
    each other, ``split_long`` cuts long inputs into pieces, and ``preset`` fills what is not given.
    ``num_prompts`` limits any of them; without it a generator makes 1000 requests (100 sessions) and a trace is read
    to its end.
    """

    dataset: dict[str, Any] | None = None
    arrival: dict[str, Any] | None = None
    trace: dict[str, Any] | None = None
    closed_loop: dict[str, Any] | None = None
    sessions: dict[str, Any] | None = None
    num_prompts: int | None = None
    preset: str | None = None
    on_too_long: OnTooLong = "reject"
    split_long: dict[str, Any] | None = None
