"""Read the `dataset` section of a workload: which lengths prompts and outputs have."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llmsim.errors import ScenarioError
from llmsim.workload.distributions import (
    Distribution,
    Empirical,
    Exponential,
    Fixed,
    Geometric,
    Length,
    Lognormal,
    Mixture,
    Normal,
    Shifted,
    Uniform,
)
from llmsim.workload.lengths import Lengths, SampledLengths, SharedPrefixes
from llmsim.workload.parameters import Parameters
from llmsim.workload.tables import load_table, quantile_table
from llmsim.workload.vllm_bench import PrefixRepetition, VllmRandomLengths

_PROMPT_NAMES = ("prompt", "input", "input_len")
_OUTPUT_NAMES = ("output", "output_len")
DISTRIBUTIONS = (
    "fixed", "uniform", "lognormal", "normal", "exponential", "geometric", "mixture", "quantiles", "empirical", "table",
)  # fmt: skip
DATASETS = ("random", "vllm_random", "prefix_repetition", "table", "lengths", *DISTRIBUTIONS[:-1])


def build_lengths(values: Mapping[str, Any] | None) -> Lengths:
    """Return the source of lengths that the section describes.

    Raises:
        ScenarioError: an option is wrong; the message names it.
    """
    options = Parameters(values, "workload.dataset")
    name = options.text("name", "random", choices=DATASETS)
    if name == "random":
        lengths: Lengths = _random(options)
    elif name == "vllm_random":
        lengths = _vllm_random(options)
    elif name == "prefix_repetition":
        lengths = PrefixRepetition(
            options.whole("prefix_len", 256, least=0),
            options.whole("suffix_len", 256, least=1),
            options.whole("num_prefixes", 10, least=1),
            options.whole("output_len", 128, least=1),
        )
    elif name == "table":
        lengths = _table(options)
    else:
        lengths = _sampled(options, name)
    options.finish()
    return lengths


def _random(options: Parameters) -> Lengths:
    """Return the lengths of vLLM's random dataset, from this program's own streams: they do not depend on the count."""
    bounds = _vllm_random(options)
    (low, high), (output_low, output_high) = bounds.bounds
    added = bounds.prefix_len + bounds.special_tokens
    prefix = SharedPrefixes(1, bounds.prefix_len) if bounds.prefix_len else None
    ranged = (low, high) != (low, low) or (output_low, output_high) != (output_low, output_low)
    return SampledLengths(
        f"random, prompt {low + added}-{high + added}, output {output_low}-{output_high} tokens"
        if ranged
        else f"prompt {low + added}, output {output_low} tokens",
        Length(Uniform(low + bounds.special_tokens, high + bounds.special_tokens), low=0 if prefix else 1),
        Length(Uniform(output_low, output_high)),
        prefixes=prefix,
        prefix_added=prefix is not None,
    )


def _vllm_random(options: Parameters) -> VllmRandomLengths:
    ratio = options.raw("range_ratio")
    if isinstance(ratio, Mapping):
        ratios = options.below("range_ratio")
        inputs, outputs = ratios.number("input", least=0.0), ratios.number("output", least=0.0)
        ratios.finish()
    else:
        inputs = outputs = options.number("range_ratio", 0.0, least=0.0)
    if inputs >= 1.0 or outputs >= 1.0:
        raise options.error("range_ratio", "must be less than 1")
    lengths = VllmRandomLengths(
        options.whole("input_len", 1024, least=0),
        options.whole("output_len", 128, least=1),
        inputs,
        outputs,
        options.whole("prefix_len", 0, least=0),
        options.whole("special_tokens", 0, least=0),
    )
    if lengths.bounds[0][0] + lengths.prefix_len < 1:
        raise options.error("input_len", "is too small: a prompt could have no token")
    return lengths


def _table(options: Parameters) -> Lengths:
    table = load_table(options.text("table"))
    dependent = options.flag("conditional", table.conditional is not None)
    if dependent and table.conditional is None:
        raise options.error("conditional", f"table {table.name} has no outputs by prompt")
    low, high = options.whole("min_tokens", 1, least=1), options.optional_whole("max_tokens", least=1)
    correlation = 0.0 if dependent else options.number("correlation", 0.0, least=-1.0, most=1.0)
    return SampledLengths(
        f"table {table.name}" + (", output by prompt" if dependent else ""),
        Length(table.prompt, low, high),
        Length(table.output, low, high),
        table.conditional if dependent else None,
        correlation,
        _prefixes(options),
    )


def _sampled(options: Parameters, name: str) -> Lengths:
    kind = None if name == "lengths" else name
    prompt_name = next((key for key in _PROMPT_NAMES if key in options), "prompt")
    output_name = next((key for key in _OUTPUT_NAMES if key in options), "output")
    prompt, prompt_label = parse_length(options, prompt_name, kind)
    output, output_label = parse_length(options, output_name, kind)
    return SampledLengths(
        f"prompt {prompt_label}, output {output_label}",
        prompt,
        output,
        correlation=options.number("correlation", 0.0, least=-1.0, most=1.0),
        prefixes=_prefixes(options),
    )


def _prefixes(options: Parameters) -> SharedPrefixes | None:
    if "shared_prefix" not in options:
        options.raw("shared_prefix")
        return None
    shared = options.below("shared_prefix")
    prefixes = SharedPrefixes(
        shared.whole("count", 1, least=1), shared.whole("tokens", least=1), shared.number("zipf", 0.0, least=0.0)
    )
    shared.finish()
    return prefixes


def parse_length(options: Parameters, name: str, kind: str | None) -> tuple[Length, str]:
    """Return the length that option ``name`` describes, a number or a distribution, and its label.

    Raises:
        ScenarioError: an option is wrong; the message names it.
    """
    value = options.raw(name)
    if not isinstance(value, Mapping):
        tokens = options.whole(name, least=1)
        return Length(Fixed(tokens)), f"{tokens} tokens"
    side = options.below(name)
    distribution = parse_distribution(side, kind)
    offset = side.number("offset", 0.0, least=0.0)
    if offset:
        distribution = Shifted(distribution, offset)
    low, high = side.whole("min", 1, least=1), side.optional_whole("max", least=1)
    if high is not None and high < low:
        raise side.error("max", f"must be at least min, {low}")
    side.finish()
    return Length(distribution, low, high), str(side.raw("distribution") or kind)


def parse_distribution(side: Parameters, kind: str | None = None) -> Distribution:
    """Return the distribution that the options describe; ``kind`` is its name when they do not give one.

    Raises:
        ScenarioError: an option is wrong; the message names it.
    """
    name = side.text("distribution", kind, choices=DISTRIBUTIONS)
    readers: dict[str, Callable[[Parameters], Distribution]] = {
        "fixed": lambda options: Fixed(options.number("value", above=0.0)),
        "uniform": _uniform,
        "lognormal": _lognormal,
        "normal": lambda options: Normal(options.number("mean"), options.number("sd", least=0.0)),
        "exponential": lambda options: Exponential(options.number("mean", above=0.0)),
        "geometric": lambda options: Geometric(options.number("mean", least=1.0)),
        "mixture": _mixture,
        "quantiles": _quantiles,
        "empirical": _empirical,
        "table": _side_of_table,
    }
    return readers[name](side)


def _uniform(side: Parameters) -> Distribution:
    low, high = side.whole("low", least=0), side.whole("high", least=0)
    if high < low:
        raise side.error("high", f"must be at least low, {low}")
    return Uniform(low, high)


def _lognormal(side: Parameters) -> Distribution:
    mean = side.optional_number("mean", above=0.0)
    sd = side.optional_number("sd", least=0.0)
    mu, median = side.optional_number("mu"), side.optional_number("median", above=0.0)
    sigma = side.optional_number("sigma", least=0.0)
    if mean is not None and sd is not None:
        return Lognormal.from_mean(mean, sd)
    if sigma is None or (mu is None) + (median is None) + (mean is None) != 2:
        raise ScenarioError(f"{side.where}: a lognormal needs mean and sd, or sigma with one of mean, median and mu")
    if mean is not None:
        return Lognormal(math.log(mean) - sigma**2 / 2.0, sigma)
    return Lognormal(math.log(median) if mu is None and median is not None else mu or 0.0, sigma)


def _mixture(side: Parameters) -> Distribution:
    parts = side.raw("parts")
    if not isinstance(parts, list) or not parts:
        raise side.error("parts", "must be a list of distributions with weights")
    weights, distributions = [], []
    for number, part in enumerate(parts):
        options = Parameters(part, f"{side.where}.parts[{number}]")
        weights.append(options.number("weight", above=0.0))
        distributions.append(parse_distribution(options, "lognormal"))
        options.finish()
    total = math.fsum(weights)
    return Mixture(tuple(weight / total for weight in weights), tuple(distributions))


def _quantiles(side: Parameters) -> Distribution:
    percent, values = side.numbers("percent"), side.numbers("values")
    try:
        return quantile_table(percent or [], values or [])
    except ValueError as error:
        raise ScenarioError(f"{side.where}: {error}") from None


def _empirical(side: Parameters) -> Distribution:
    values = side.numbers("values")
    weights = side.numbers("weights") or [1.0] * len(values or [])
    if values is None or len(values) != len(weights) or min(weights) < 0.0 or not sum(weights) > 0.0:
        raise side.error("values", "must be a list of lengths, with as many weights that are not negative")
    return Empirical.from_weights(np.array(values), np.array(weights))


def _side_of_table(side: Parameters) -> Distribution:
    table = load_table(side.text("table"))
    return table.prompt if side.text("side", "prompt", choices=("prompt", "output")) == "prompt" else table.output
