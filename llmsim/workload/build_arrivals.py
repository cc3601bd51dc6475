"""Read the `arrival` section of a workload: when requests come."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llmsim.errors import CatalogError, ScenarioError
from llmsim.workload.arrivals import AllAtOnce, Arrivals, Batches, MarkovRenewal, Modulated, RampedRenewal, Renewal
from llmsim.workload.gaps import ConstantGaps, ExponentialGaps, GammaGaps, Gaps, WeibullGaps, weibull_shape
from llmsim.workload.mmpp import Mmpp, checked_transition, from_stays
from llmsim.workload.parameters import Parameters
from llmsim.workload.rates import DAY_S, RateTable, cosine, hourly
from llmsim.workload.tables import load_record, load_table
from llmsim.workload.vllm_bench import VllmArrivals

_RENEWALS = ("poisson", "gamma", "weibull", "constant")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
PROFILES = "daily-profiles"


def build_arrivals(values: Mapping[str, Any] | None, where: str = "workload.arrival") -> Arrivals:
    """Return the arrival process that the section describes; without one, everything comes at once.

    Without ``kind`` the meaning is vLLM's: Gamma gaps of shape ``burstiness``, which is Poisson at 1.

    Raises:
        ScenarioError: an option is wrong; the message names it.
    """
    options = Parameters(values, where)
    readers: dict[str, Callable[[Parameters], Arrivals]] = {
        **dict.fromkeys(_RENEWALS, _renewal),
        "all_at_once": _all_at_once,
        "batch": _batches,
        "mmpp": _mmpp,
        "diurnal": _diurnal,
        "rate_table": _rate_table,
        "markov_renewal": _markov_renewal,
        "vllm": _vllm,
    }
    kind = options.text("kind", _default_kind(options), choices=tuple(readers))
    options.optional_whole("max_concurrency", least=1)  # read by `build`
    try:
        arrivals = readers[kind](options)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None
    options.finish()
    return arrivals


def _default_kind(options: Parameters) -> str:
    if "ramp_up_strategy" not in options and options.number("request_rate", math.inf, above=0.0) == math.inf:
        return "all_at_once"
    if "cv" in options:
        return "gamma"
    burstiness = options.number("burstiness", 1.0, above=0.0)
    return "poisson" if burstiness == 1.0 else "constant" if math.isinf(burstiness) else "gamma"


def _renewal(options: Parameters) -> Arrivals:
    kind = options.text("kind", _default_kind(options))
    gaps = _gaps(options, kind)
    strategy = options.raw("ramp_up_strategy")
    if strategy is not None:
        strategy = options.text("ramp_up_strategy", choices=("linear", "exponential"))
        options.raw("request_rate")
        start, end = (options.number(f"ramp_up_{side}_rps", above=0.0) for side in ("start", "end"))
        return RampedRenewal(gaps, start, end, strategy)
    rate = options.number("request_rate", above=0.0)
    return AllAtOnce() if math.isinf(rate) else Renewal(gaps, rate)


def _gaps(options: Parameters, kind: str) -> Gaps:
    cv = options.optional_number("cv", above=0.0)
    burstiness = options.optional_number("burstiness", above=0.0)
    if kind in ("poisson", "constant"):
        if cv is not None or (burstiness not in (None, 1.0, math.inf)):
            raise ScenarioError(f"{options.where}: {kind} arrivals have no cv or burstiness\nhint: kind: gamma")
        return ExponentialGaps() if kind == "poisson" else ConstantGaps()
    if kind == "weibull":
        shape = options.optional_number("shape", above=0.0)
        if (shape is None) == (cv is None):
            raise ScenarioError(f"{options.where}: weibull arrivals need either cv or shape")
        return WeibullGaps(weibull_shape(cv) if shape is None and cv is not None else shape or 1.0)
    if cv is not None and burstiness is not None:
        raise options.error("cv", "excludes burstiness, which is 1 / cv squared")
    shape = cv**-2.0 if cv is not None else burstiness
    if shape is None:
        raise ScenarioError(f"{options.where}: gamma arrivals need burstiness (the shape) or cv")
    return ConstantGaps() if math.isinf(shape) else GammaGaps(shape)


def _base_gaps(options: Parameters) -> Gaps:
    """Return the gaps of a modulated process: Poisson unless cv or burstiness, or another ``gaps``, is given."""
    shaped = "cv" in options or "burstiness" in options or "shape" in options
    return _gaps(options, options.text("gaps", "gamma" if shaped else "poisson", choices=_RENEWALS))


def _all_at_once(options: Parameters) -> Arrivals:
    options.raw("burstiness")
    if options.number("request_rate", math.inf, above=0.0) != math.inf:
        raise options.error("request_rate", "means nothing when everything comes at once")
    return AllAtOnce()


def _batches(options: Parameters) -> Arrivals:
    return Batches(
        _base_gaps(options), options.number("request_rate", above=0.0), options.number("mean_batch", least=1.0)
    )


def _mmpp(options: Parameters) -> Arrivals:
    values = _fitted(options, "mmpp") if "fit" in options else {}
    options.raw("fit")
    source = Parameters({**values}, f"{options.where}.fit") if values else options
    for name in ("rates", "transition", "generator", "mean_stay_s", "step_s"):
        options.raw(name)
    rates = np.array(source.numbers("rates") or [])
    if not len(rates):
        raise ScenarioError(f"{options.where}.rates: is required, requests per second in each state")
    label = f"MMPP-{len(rates)}"
    stays = source.numbers("mean_stay_s")
    if stays is not None:
        if len(stays) != len(rates) or min(stays) <= 0.0 or len(rates) < 2:
            raise options.error("mean_stay_s", "needs one time above 0 for each of at least two rates")
        process = from_stays(rates, np.array(stays), label)
    elif source.raw("generator") is not None:
        matrix = checked_transition(_matrix(source, "generator"), generator=True)
        process = Mmpp(rates, matrix, None, label)
    else:
        matrix = checked_transition(_matrix(source, "transition"), generator=False)
        process = Mmpp(rates, matrix, source.number("step_s", 1.0, above=0.0), label)
    rate = options.optional_number("request_rate", above=0.0)
    return Modulated(_base_gaps(options), process if rate is None else process.scaled_to(_finite(options, rate)))


def _fitted(options: Parameters, kind: str) -> dict[str, Any]:
    table = load_table(options.text("fit"))
    if kind not in table.arrivals:
        raise options.error("fit", f"this table has no {kind} arrivals")
    return dict(table.arrivals[kind])


def _matrix(options: Parameters, name: str) -> list[list[float]]:
    rows = options.raw(name)
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        raise options.error(name, "must be a square matrix")
    return rows


def _markov_renewal(options: Parameters) -> Arrivals:
    values = _fitted(options, "markov_renewal") if "fit" in options else {}
    options.raw("fit")
    source = Parameters(values, f"{options.where}.fit") if values else options
    for name in ("mu", "sigma", "transition", "gap_cap_s"):
        options.raw(name)
    mu, sigma = np.array(source.numbers("mu") or []), np.array(source.numbers("sigma") or [])
    matrix = checked_transition(_matrix(source, "transition"), generator=False)
    if not len(mu) == len(sigma) == len(matrix):
        raise ScenarioError(f"{source.where}: mu, sigma and transition must have the same number of states")
    return MarkovRenewal(
        mu, sigma, matrix, source.number("gap_cap_s", math.inf, above=0.0), options.number("pace", 1.0, above=0.0)
    )


def _diurnal(options: Parameters) -> Arrivals:
    weekend = options.number("weekend", 1.0, above=0.0)
    profile = options.raw("profile")
    if isinstance(profile, str):
        table = hourly(_profile(options, profile), weekend=weekend, label=f"daily profile {profile}")
    elif profile is not None:
        table = hourly(options.numbers("profile") or [], weekend=weekend, label="daily profile")
    else:
        table = cosine(
            peak_to_trough=options.number("peak_to_trough", 2.0, least=1.0),
            peak_hour=options.number("peak_hour", 15.0, least=0.0, most=24.0),
            weekend=weekend,
        )
    day = _DAYS.index(options.text("start_day", "monday", choices=_DAYS))
    start_s = day * DAY_S + options.number("start_hour", 0.0, least=0.0, most=24.0) * 3600.0
    rate = _finite(options, options.number("request_rate", above=0.0))
    return Modulated(_base_gaps(options), table.started_at(start_s).scaled_to(rate))


def _profile(options: Parameters, name: str) -> list[float]:
    profiles = load_record(PROFILES).get("profiles", {})
    if name not in profiles:
        raise ScenarioError(str(options.error("profile", "is not known")) + f"\nhint: one of {', '.join(profiles)}")
    try:
        return [float(value) for value in profiles[name]["hourly"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"workloads/tables/{PROFILES}.yaml: {name}: {error}") from error


def _rate_table(options: Parameters) -> Arrivals:
    rates = options.numbers("rates")
    if rates is None:
        raise ScenarioError(f"{options.where}.rates: is required, requests per second")
    durations = options.numbers("durations_s") or [options.number("step_s", 60.0, above=0.0)] * len(rates)
    options.raw("step_s")
    if len(durations) != len(rates):
        raise options.error("durations_s", f"needs one for each of the {len(rates)} rates")
    table = RateTable(np.array(durations), np.array(rates), options.flag("repeat", False), "rate table")
    rate = options.optional_number("request_rate", above=0.0)
    return Modulated(_base_gaps(options), table if rate is None else table.scaled_to(_finite(options, rate)))


def _vllm(options: Parameters) -> Arrivals:
    rate = options.number("request_rate", math.inf, above=0.0)
    burstiness = options.number("burstiness", 1.0, above=0.0)
    if options.raw("ramp_up_strategy") is None:
        return VllmArrivals(rate, burstiness)
    strategy = options.text("ramp_up_strategy", choices=("linear", "exponential"))
    start, end = (options.number(f"ramp_up_{side}_rps", above=0.0) for side in ("start", "end"))
    return VllmArrivals(rate, burstiness, strategy, start, end)


def _finite(options: Parameters, rate: float) -> float:
    if math.isinf(rate):
        raise options.error("request_rate", "must be finite: this process needs a time scale")
    return rate
