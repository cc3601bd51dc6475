"""The resolved scenario as YAML: every value with a comment on where it came from, and a file that runs again."""

from collections.abc import Iterator
from typing import Any

from llmsim.schema.other_flags import ALL_FLAGS
from llmsim.schema.resolution import Resolved
from llmsim.schema.values import shown

_COMMENT_COLUMN = 56
_DEFAULT = "default"


def resolved_yaml(resolved: Resolved) -> str:
    """Return ``resolved`` as the text of ``scenario.resolved.yaml``; `llmsim.schema.load` reads it back."""
    scenario = resolved.scenario
    lines = ["# Every value of this run, and where it came from. `llmsim simulate` runs this file again."]
    lines += _lines("llmsim", scenario.llmsim, "version of the file")
    lines += _lines("name", resolved.name, "user" if scenario.gives("name") else "model and device")
    lines += _lines("seed", resolved.seed, "user" if scenario.gives("seed") else _DEFAULT)
    said = scenario.to_dict()
    lines += _lines("cluster", said["cluster"], "user")
    lines.append(f"# cluster: {resolved.cluster.title}, {resolved.cluster.devices} devices")
    lines += _lines("model", said["model"], "user")
    lines.append(f"# model: {resolved.model.name}, {resolved.model.source}")
    if scenario.gives("model_transform"):
        lines += _lines("model_transform", said["model_transform"], "user")
    lines.append("engine:")
    lines += _lines("preset", resolved.preset, "user" if scenario.gives("engine", "preset") else _DEFAULT, 1)
    for name, value, origin in _engine(resolved):
        lines += _lines(name, value, origin, 1)
    lines += _section(resolved, "deployment")
    lines += _scheduler(resolved)
    lines += _section(resolved, "performance", stack=resolved.performance.stack)
    lines += _section(resolved, "workload")
    for name in ("slo", "goodput"):
        if said.get(name):
            lines += _lines(name, said[name], "user")
    lines += _section(resolved, "output")
    return "\n".join(lines) + "\n"


def _engine(resolved: Resolved) -> Iterator[tuple[str, Any, str]]:
    """Yield the flags that the simulation reads, and those that the user gave although it does not."""
    options, origins = resolved.options, resolved.origins
    given = resolved.scenario.engine.model_dump(exclude={"preset"}, exclude_unset=True)
    for name, flag in ALL_FLAGS.items():
        origin = origins.get(f"engine.{name}")
        if given.get(name) is not None:
            yield name, given[name], "user" if flag.status == "modelled" else f"user; {flag.status}"
        elif origin is None:
            continue
        elif name == "cudagraph_capture_sizes":
            yield name, list(options.cudagraph_sizes) or None, origin
        elif name in ("dtype", "quantization"):
            yield name, None, f"{origin}: {resolved.model.dtype if name == 'dtype' else options.weight_format}"
        elif name == "kv_cache_dtype":
            yield name, "auto", f"{origin}: {options.cache_format}"
        elif name in resolved.engine_values:
            yield name, resolved.engine_values[name], origin
        elif hasattr(options, name):
            yield name, getattr(options, name), origin
        elif name != "max_cudagraph_capture_size":
            yield name, flag.default, origin


def _scheduler(resolved: Resolved) -> list[str]:
    """Return the lines of the scheduler and its settings."""
    origins, settings = resolved.origins, resolved.scheduler_settings
    if not settings:
        return _lines("scheduler", resolved.scheduler, origins["scheduler"])
    lines = ["scheduler:", *_lines("name", resolved.scheduler, origins["scheduler"], 1)]
    for name, value in settings.items():
        lines += _lines(name, value, origins[f"scheduler.{name}"], 1)
    return lines


def _section(resolved: Resolved, name: str, **filled: Any) -> list[str]:
    """Return the lines of a section with its defaults; ``filled`` gives values that were worked out."""
    scenario = resolved.scenario
    values = getattr(scenario, name).model_dump(mode="json")
    lines = [f"{name}:"]
    for key, value in values.items():
        given = scenario.gives(name, key)
        if not given and filled.get(key) is not None:
            lines += _lines(key, filled[key], "preset", 1)
        elif value is not None:
            said = getattr(scenario, name).model_dump(mode="json", exclude_unset=True)[key] if given else value
            lines += _lines(key, said, "user" if given else _DEFAULT, 1)
    return lines


def _lines(key: str, value: Any, origin: str, depth: int = 0) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        lines = [f"{indent}{shown(key)}:"]
        for name, inner in value.items():
            lines += _lines(str(name), inner, origin, depth + 1)
        return lines
    return [f"{indent}{shown(key)}: {shown(value)}".ljust(_COMMENT_COLUMN) + f"  # {origin}"]
