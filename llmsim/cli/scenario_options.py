"""From the options of ``llmsim simulate`` to a scenario: a file, the options over it, or the demonstration."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.load_options import workload_values
from llmsim.cli.options import option
from llmsim.cli.pasted import with_pasted
from llmsim.model.transform import PRUNE_KINDS

if TYPE_CHECKING:
    from llmsim.schema import Scenario

# What runs when nothing is said.
DEMONSTRATION: dict[str, Any] = {
    "name": "demo",
    "model": "llama-3.1-8b",
    "cluster": {"gpu": "h100-sxm"},
    "workload": {
        "dataset": {"name": "random", "input_len": 1024, "output_len": 128},
        "arrival": {"kind": "poisson", "request_rate": 8},
        "num_prompts": 500,
    },
}
# Model and machine when options are given, but not these.
DEFAULT_MODEL, DEFAULT_GPU = "llama-3.1-8b", "h100-sxm"

MACHINE = "Machine and model"

_KEYS = {
    "name": "name", "seed": "seed", "model": "model", "scheduler": "scheduler", "gpu": "cluster.gpu",
    "num_gpus": "cluster.num_gpus", "cluster": "cluster.name", "replicas": "deployment.replicas",
    "prune": "model_transform.prune", "prune_kind": "model_transform.prune_kind",
    "distill_to": "model_transform.distill_to",
    "router": "deployment.router.policy",
    "preset": "engine.preset", "warmup": "workload.warmup",
    "percentile_metrics": "output.metrics", "metric_percentiles": "output.percentiles",
    "first_tokens": "output.first_tokens",
}  # fmt: skip
# Options whose value stays a text, even one that looks like a number.
_TEXTS = {"name", "model", "gpu", "cluster", "router", "scheduler", "preset", "trace", "trace_columns", "workload",
          "dataset_path", "prune_kind", "distill_to"}  # fmt: skip
_LISTS = {"percentile_metrics", "metric_percentiles"}
# With these alone it is still the demonstration.
_ASIDE = {"name", "seed", "workload.warmup", "output.metrics", "output.percentiles", "output.first_tokens", "goodput",
          "slo"}  # fmt: skip
_GOODPUT = re.compile(r"(ttft|ttfn|tpot|e2el):[0-9.eE+]+")


def machine_options() -> list[Callable[[Any], Any]]:
    """Return the options that say which model runs on what."""
    return [
        option("--model", section=MACHINE, metavar="NAME", help="Model of the catalogue, or path to a config.json."),
        option("--prune", section=MACHINE, metavar="SHARE", help="Serve the model pruned by this share, such as 0.5."),
        option("--prune-kind", section=MACHINE, metavar="NAME", help=f"What goes: {', '.join(PRUNE_KINDS)}. [width]"),
        option("--distill-to", section=MACHINE, metavar="SIZES", help="Serve a smaller one: layers=12,hidden=768."),
        option("--gpu", section=MACHINE, metavar="NAME", help="Device of the catalogue (llmsim list hardware)."),
        option("--num-gpus", section=MACHINE, metavar="N", help="Devices. [as many as needed]"),
        option("--cluster", section=MACHINE, metavar="NAME", help="Cluster of the catalogue instead of a device."),
        option("--replicas", section=MACHINE, metavar="N", help="Engines. [1]"),
        option("--router", section=MACHINE, metavar="NAME", help="How requests reach them (llmsim list routers)."),
        option("--scheduler", section=MACHINE, metavar="NAME", help="Who computes what next (llmsim list schedulers)."),
        option("--preset", section=MACHINE, metavar="NAME", help="Engine and version whose defaults hold. [vllm@0.33]"),
    ]


def scenario_from(said: Mapping[str, Any]) -> "Scenario":
    """Return the scenario that the options in ``said`` describe.

    Raises:
        click.UsageError: more than one file, or options that do not go together.
        ScenarioError: with one line for each thing that is wrong in the file or in the options.
    """
    from llmsim.schema import load
    from llmsim.schema.build import parse_setting

    said = with_pasted(said)
    file, goodput = _arguments(said.get("scenario", ()))
    values, labels = _values(said)
    limits = dict(_pair(text, ":") for part in (*said.get("goodput", ()), *goodput) for text in _parts(part))
    targets = dict(_pair(text, "=") for text in said.get("slo", ()))
    for section, pairs in (("goodput", limits), ("slo", targets)):
        if pairs:
            values[section], labels[section] = pairs, f"--{section}"
    for text in said.get("settings", ()):
        name, value = parse_setting(text)
        values[name], labels[name] = value, f"--set {name}"
    return load(_base(values) if file is None else file, overrides=values, labels=labels)


def points_from(said: Mapping[str, Any], points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each of ``points``, options too, changes of what ``said`` describes: values by dotted key."""
    said = with_pasted(said)
    common, _ = _values(said)
    changes = []
    for point in points:
        values, _ = _values({**said, **point})
        changes.append({key: value for key, value in values.items() if key not in common or common[key] != value})
    return changes


def _arguments(arguments: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Return the scenario file, and the rest of ``--goodput ttft:500 tpot:50``, which click takes for files."""
    goodput = [argument for argument in arguments if _GOODPUT.fullmatch(argument)]
    files = [argument for argument in arguments if argument not in goodput]
    if len(files) > 1:
        raise click.UsageError(f"one scenario at a time (got {', '.join(files)})")
    return (files[0] if files else None), goodput


def _base(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds without a file: the demonstration, or just a model and a machine."""
    if set(values) <= _ASIDE:
        return DEMONSTRATION
    machine = any(name == "gpu" or (name.startswith("cluster") and name != "cluster.num_gpus") for name in values)
    return {"model": DEFAULT_MODEL, **({} if machine else {"cluster": {"gpu": DEFAULT_GPU}})}


def _values(said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that the options give, by dotted key, and what to call each of them in messages."""
    from llmsim.schema.other_flags import ALL_FLAGS, OTHER_SPELLINGS

    flags = ALL_FLAGS.keys() | OTHER_SPELLINGS.keys()
    read = {name: _read(name, value) for name, value in said.items()}
    keys = {name: _KEYS.get(name) or (f"engine.{name}" if name in flags else None) for name in read}
    values = {key: read[name] for name, key in keys.items() if key is not None}
    labels = {key: f"--{name.replace('_', '-')}" for name, key in keys.items() if key is not None}
    for key, value in workload_values(read).items():
        values[key] = value
        labels[key] = _label(key, said)
    return values, labels


def _label(key: str, said: Mapping[str, Any]) -> str:
    """Return the option behind a key of the workload, for messages."""
    last = "workload" if key == "workload.preset" else key.rsplit(".", 1)[-1]
    candidates = (last, f"random_{last}", f"dataset_{last}", f"trace_{last}", f"max_{last}", key.split(".")[1])
    return "--" + next((name for name in candidates if name in said), last).replace("_", "-")


def _read(name: str, value: Any) -> Any:
    from llmsim.schema.source import value_of

    if not isinstance(value, str) or name in _TEXTS:
        return value
    return _parts(value) if name in _LISTS else value_of(value)


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[,\s]+", text) if part]


def _pair(text: str, separator: str) -> tuple[str, Any]:
    from llmsim.schema.source import value_of

    name, found, value = text.replace("<=", "=").replace(">=", "=").partition(separator)
    if not found:
        raise click.UsageError(f"not of the form KEY{separator}VALUE (got {text!r})")
    return name.strip(), value_of(value.strip())
