"""The load options of ``vllm bench serve``, as keys of the ``workload:`` section."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from llmsim.cli.options import option

LOAD = "Load, as in `vllm bench serve`"
TRACE = "Traces"
NO_EFFECT = ("ignore_eos", "disable_shuffle", "no_oversample", "save_result", "save_detailed")
NO_EFFECT_VALUES = ("backend", "base_url", "endpoint", "endpoint_type", "result_dir", "result_filename")

# Options of `vllm bench serve` -> dataset -> parameter of that dataset.
_DATASET_PARAMETERS = {
    "random_input_len": ("random", "input_len"),
    "random_output_len": ("random", "output_len"),
    "random_range_ratio": ("random", "range_ratio"),
    "random_prefix_len": ("random", "prefix_len"),
    "prefix_repetition_prefix_len": ("prefix_repetition", "prefix_len"),
    "prefix_repetition_suffix_len": ("prefix_repetition", "suffix_len"),
    "prefix_repetition_num_prefixes": ("prefix_repetition", "num_prefixes"),
    "prefix_repetition_output_len": ("prefix_repetition", "output_len"),
    "sharegpt_output_len": ("sharegpt", "output_len"),
    "custom_output_len": ("custom", "output_len"),
    "timed_trace_chunk_hash_size": ("timed_trace", "block_tokens"),
}
# The options that matter to few, and are not on the help page.
_RARE = tuple(name for name, (dataset, _) in _DATASET_PARAMETERS.items() if dataset != "random")
_ARRIVAL = ("request_rate", "burstiness", "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps")


def load_options() -> list[Callable[[Any], Any]]:
    """Return the options, for a command."""
    text: dict[str, Any] = {"section": LOAD, "default": None}
    return [
        option("--request-rate", metavar="X", help="Requests a second; inf: all at once. [inf]", **text),
        option("--burstiness", metavar="X", help="Shape of gamma gaps; 1 is Poisson, below 1 burstier. [1]", **text),
        option("--max-concurrency", metavar="N", help="Most requests in flight; alone: a closed loop.", **text),
        option("--num-prompts", metavar="N", help="Requests. [1000; all rows of a trace]", **text),
        option("--arrival", metavar="KIND", help="constant, weibull, mmpp, ...; vllm: number for number.", **text),
        option("--dataset-name", metavar="NAME", help="Lengths: random, sharegpt, lognormal, ... [random]", **text),
        option("--dataset-path", metavar="FILE", help="File of lengths, for datasets that are one.", **text),
        option("--input-len", metavar="N", help="Same as --random-input-len.", **text),
        option("--output-len", metavar="N", help="Same as --random-output-len.", **text),
        option("--random-input-len", metavar="N", help="Prompt tokens. [1024]", **text),
        option("--random-output-len", metavar="N", help="Output tokens. [128]", **text),
        option("--random-range-ratio", metavar="X", help='Spread, or {"input": X, "output": X}. [0]', **text),
        option("--random-prefix-len", metavar="N", help="Tokens that all prompts share. [0]", **text),
        option("--ramp-up-strategy", metavar="linear|exponential", help="Let the rate rise.", **text),
        option("--ramp-up-start-rps", metavar="X", help="Rate at the start of the ramp.", **text),
        option("--ramp-up-end-rps", metavar="X", help="Rate at its end.", **text),
        option("--workload", metavar="NAME", help="Preset of the catalogue (llmsim list workloads).", **text),
        option("--trace", metavar="FILE", section=TRACE, help="Replay a trace; its format is recognised by content."),
        option("--trace-format", metavar="NAME", section=TRACE, help="Say which format it is instead. [auto]"),
        option(
            "--trace-columns",
            metavar="WHAT=NAME,...",
            section=TRACE,
            help="Which column is which: time=when,prompt=tokens_in,output=tokens_out,status=code.",
        ),
        option("--speedup", metavar="X", section=TRACE, help="2 plays the trace in half the time. [1]"),
        *[option("--" + name.replace("_", "-"), name, hidden=True, **text) for name in (*_RARE, *NO_EFFECT_VALUES)],
        *[option("--" + name.replace("_", "-"), name, is_flag=True, hidden=True, section=LOAD) for name in NO_EFFECT],
    ]


def workload_values(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options in ``said`` say of the workload, by dotted key.

    Raises:
        click.UsageError: options that do not go together.
    """
    keys = {
        "num_prompts": "workload.num_prompts",
        "workload": "workload.preset",
        "trace": "workload.trace.path",
        "trace_format": "workload.trace.format",
        "speedup": "workload.trace.speedup",
        "dataset_path": "workload.dataset.path",
        "arrival": "workload.arrival.kind",
        **{name: f"workload.arrival.{name}" for name in _ARRIVAL},
    }
    values = {key: said[name] for name, key in keys.items() if name in said}
    if "trace_columns" in said:
        values["workload.trace.columns"] = named_columns(str(said["trace_columns"]), "--trace-columns")
    values |= _dataset(said)
    if "max_concurrency" in said:
        # vllm bench: alone it is a closed loop; beside a rate it holds requests back.
        paced = any(key.startswith("workload.arrival.") for key in values)
        key = "workload.arrival.max_concurrency" if paced else "workload.closed_loop.concurrency"
        values["workload.trace.max_concurrency" if "trace" in said else key] = said["max_concurrency"]
    return values


def _dataset(said: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(said)
    for short in ("input_len", "output_len"):
        if short in given:
            given.setdefault(f"random_{short}", given[short])
    chosen = given.get("dataset_name")
    values: dict[str, Any] = {}
    for name, (dataset, parameter) in _DATASET_PARAMETERS.items():
        if name not in given:
            continue
        if chosen not in (dataset, None):
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --dataset-name {dataset}, not {chosen}")
        chosen = dataset
        values[f"workload.dataset.{parameter}"] = given[name]
    if chosen is not None:
        exact = chosen == "random" and said.get("arrival") == "vllm"
        values["workload.dataset.name"] = "vllm_random" if exact else chosen
    return values


def named_columns(columns: str | None, name: str = "--columns") -> dict[str, str] | None:
    """Return which column of a trace is which, as the option ``name`` says it.

    Raises:
        click.UsageError: it is not of that form.
    """
    from llmsim.workload.readers.synonyms import MEANINGS

    if columns is None:
        return None
    pairs = [part.partition("=") for part in columns.split(",")]
    for what, equals, column in pairs:
        if what not in MEANINGS or not equals or not column:
            raise click.UsageError(f"{name}: wants {', '.join(MEANINGS)}, each with =NAME (got {columns!r})")
    return {what: column for what, _, column in pairs}
