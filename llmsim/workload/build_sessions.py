"""Read the `sessions` section of a workload: what sessions are like, how many there are, and when they begin."""

from collections.abc import Mapping
from typing import Any

from llmsim.errors import ScenarioError
from llmsim.workload.arrivals import AllAtOnce, RampedRenewal
from llmsim.workload.build_arrivals import build_arrivals
from llmsim.workload.build_lengths import parse_distribution, parse_length
from llmsim.workload.distributions import Distribution, Fixed, Length
from llmsim.workload.lengths import SharedPrefixes
from llmsim.workload.parameters import Parameters
from llmsim.workload.sessions import SessionPlan, Sessions, Tools
from llmsim.workload.spec import WorkloadSpec
from llmsim.workload.vllm_bench import VllmArrivals
from llmsim.workload.window import ContextWindow

DEFAULT_SESSIONS = 100


def build_sessions(spec: WorkloadSpec, seed: int, window: ContextWindow) -> Sessions:
    """Return the sessions that ``spec`` describes: users one after the other, or arrivals from outside.

    Raises:
        ScenarioError: an option is wrong, or another section says the same; the message names it.
    """
    for name in ("dataset", "closed_loop"):
        if getattr(spec, name) is not None:
            hint = "sessions.users" if name == "closed_loop" else "sessions.message and sessions.output"
            raise ScenarioError(f"workload.{name}: means nothing beside sessions\nhint: {hint}")
    options = Parameters(spec.sessions, "workload.sessions")
    users = options.optional_whole("users", least=1)
    rest_s, ramp_s = seconds(options, "rest_s"), options.number("ramp_s", 0.0, least=0.0)
    count = options.optional_whole("count", least=1)
    plan = _plan(options, window)
    options.finish()
    if count is None and spec.num_prompts is None:
        count = DEFAULT_SESSIONS
    sessions = Sessions(plan, seed, window, count, spec.num_prompts)
    if users is not None:
        if spec.arrival is not None:
            raise ScenarioError("workload.arrival: sessions.users begin when they are free\nhint: give one of them")
        sessions.users, sessions.rest_s, sessions.ramp_s = users, rest_s, ramp_s
        return sessions
    for name in ("rest_s", "ramp_s"):
        if name in options:
            raise options.error(name, "means nothing without users")
    if spec.arrival is not None and spec.arrival.get("max_concurrency") is not None:
        raise ScenarioError("workload.arrival.max_concurrency: does not work with sessions\nhint: sessions.users")
    arrivals = build_arrivals(spec.arrival)
    if count is None and isinstance(arrivals, AllAtOnce | RampedRenewal | VllmArrivals):
        raise ScenarioError("workload.sessions.count: these arrivals need the number of sessions")
    sessions.arrivals = arrivals
    return sessions


def _plan(options: Parameters, window: ContextWindow) -> SessionPlan:
    history = options.raw("history")
    whole = history in (None, "whole")
    if not whole and not isinstance(history, int | float):
        raise options.error("history", "must be whole, or the most tokens that are kept")
    system, share = _system(options, window)
    return SessionPlan(
        turns=_length(options, "turns", "geometric"),
        message=_length(options, "message"),
        output=_length(options, "output"),
        first=_length(options, "first_message") if "first_message" in options else options.raw("first_message"),
        think_s=seconds(options, "think_time_s"),
        tools=_tools(options),
        system=system,
        system_share=share,
        window_tokens=None if whole else options.whole("history", least=1),
        keep=options.number("keep", 1.0, least=0.0, most=1.0),
        on_overflow="end" if options.text("on_overflow", "end", choices=("end", "forget")) == "end" else "forget",
    )


def _length(options: Parameters, name: str, kind: str = "lognormal") -> Length:
    if name not in options:
        raise ScenarioError(f"{options.where}.{name}: is required")
    return parse_length(options, name, kind)[0]


def seconds(options: Parameters, name: str) -> Distribution | None:
    """Return the times that option ``name`` describes, a number or a distribution; None: none at all."""
    if isinstance(options.raw(name), Mapping):
        below = options.below(name)
        distribution = parse_distribution(below, "exponential")
        below.finish()
        return distribution
    fixed = options.number(name, 0.0, least=0.0)
    return Fixed(fixed) if fixed else None


def _tools(options: Parameters) -> Tools | None:
    value: Any = options.raw("tools")
    if value is None:
        return None
    below = options.below("tools")
    tools = Tools(
        below.number("share", least=0.0, most=1.0), seconds(below, "time_s") or Fixed(0.0), _length(below, "result")
    )
    below.finish()
    return tools


def _system(options: Parameters, window: ContextWindow) -> tuple[SharedPrefixes | None, float]:
    value: Any = options.raw("system_prompt")
    if value is None:
        return None, 1.0
    below = options.below("system_prompt")
    tokens = below.whole("tokens", least=1)
    if tokens >= window.max_model_len:
        raise below.error("tokens", f"must be less than max_model_len, {window.max_model_len}")
    prompts = SharedPrefixes(below.whole("count", 1, least=1), tokens, below.number("zipf", 0.0, least=0.0))
    share = below.number("share", 1.0, least=0.0, most=1.0)
    below.finish()
    return prompts, share
