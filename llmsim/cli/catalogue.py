"""``llmsim list`` and ``llmsim show``: what is in the catalogue."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from llmsim.cli.console import common, console
from llmsim.errors import CatalogError

Rows = list[dict[str, Any]]


@click.command("list")
@click.argument(
    "kind",
    type=click.Choice(["hardware", "models", "workloads", "scenarios", "schedulers", "routers", "presets"]),
)
@common
def list_(kind: str) -> None:
    """List the catalogue's hardware, models, workloads or scenarios, or schedulers, routers or presets of engines."""
    makers: dict[str, Callable[[], list[tuple[str, Rows]]]] = {
        "hardware": _hardware,
        "models": _models,
        "workloads": _workloads,
        "scenarios": _scenarios,
        "schedulers": _schedulers,
        "routers": _routers,
        "presets": _presets,
    }
    tables = makers[kind]()
    out = console()
    if out.json:
        out.result(json.dumps(dict(tables), indent=2))
        return
    for index, (title, rows) in enumerate(tables):
        if len(tables) > 1:
            out.result(("\n" if index else "") + title)
        out.result(table(rows))


def table(rows: Rows) -> str:
    """Return ``rows`` as a text table with one space-separated column for each key; numbers to the right."""
    if not rows:
        return "(none)"
    names = list(rows[0])
    cells = [[str(row[name]) if row[name] is not None else "-" for name in names] for row in rows]
    widths = [max(len(line[index]) for line in [names, *cells]) for index in range(len(names))]
    right = [all(isinstance(row[name], int | float) or row[name] is None for row in rows) for name in names]
    lines = []
    for line in [names, *cells]:
        padded = [
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _hardware() -> list[tuple[str, Rows]]:
    from llmsim import catalog, hardware

    devices: Rows = []
    for name in catalog.names("hardware/devices"):
        device = hardware.load_device(name)
        devices.append({
            "device": name,
            "maker": device.maker,
            "kind": device.kind,
            "memory_GB": round(device.memory_bytes / 1e9, 1),
            "GB/s": round(device.memory_bandwidth / 1e9),
            "bf16_TFLOP/s": _tera(device.peak_flops.get("bf16", device.peak_flops.get("fp16"))),
            "prices": "fitted" if device.performance else "data sheet",
        })  # fmt: skip
    nodes: Rows = []
    for name in catalog.names("hardware/nodes"):
        node = hardware.load_node(name)
        nodes.append({"node": name, "devices": f"{node.devices} x {node.device.name}", "links": node.device_link.kind,
                      "title": node.title})  # fmt: skip
    clusters: Rows = []
    for name in catalog.names("hardware/clusters"):
        cluster = hardware.load_cluster(name)
        clusters.append({"cluster": name, "nodes": len(cluster.nodes), "devices": cluster.devices,
                         "title": cluster.title})  # fmt: skip
    return [("devices", devices), ("nodes", nodes), ("clusters", clusters)]


def _tera(flops: float | None) -> float | None:
    return None if flops is None else round(flops / 1e12, 1)


def _models() -> list[tuple[str, Rows]]:
    from llmsim.model import load_model, model_names
    from llmsim.model.weights import cache_bytes_per_token, cache_format, parameters

    rows: Rows = []
    for name in model_names():
        shape = load_model(name)
        rows.append({
            "model": name,
            "parameters_B": round(parameters(shape) / 1e9, 2),
            "layers": len(shape.layers),
            "max_model_len": shape.max_model_len,
            "weights": shape.weight_format,
            "cache_KiB/token": round(cache_bytes_per_token(shape, cache_format(shape)) / 1024, 1),
        })  # fmt: skip
    return [("models", rows)]


def _workloads() -> list[tuple[str, Rows]]:
    from llmsim import catalog

    rows = [
        {"workload": name, "what": _title(catalog.find("workloads/presets", name))}
        for name in catalog.names("workloads/presets")
    ]
    samples = [
        {"trace": path.name, "path": str(path)} for path in sorted(catalog.folder("workloads/traces").iterdir())
        if path.is_file() and path.suffix not in (".md", ".yaml")
    ]  # fmt: skip
    return [("presets", rows), ("traces (small samples)", samples)]


def _scenarios() -> list[tuple[str, Rows]]:
    from llmsim import catalog
    from llmsim.schema import load
    from llmsim.schema.build import SCENARIOS

    rows: Rows = []
    for name in catalog.names(SCENARIOS):
        path = catalog.find(SCENARIOS, name)
        scenario = load(path)
        limits = ", ".join(f"{key} {value:g}" for key, value in scenario.slo.items())
        # The first line of the file says what it is.
        what = path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
        rows.append({"scenario": name, "model": str(scenario.model), "limits": limits, "what": what})
    return [("scenarios", rows)]


def _title(path: Path) -> str:
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(content.get("title") or content.get("description") or "") if isinstance(content, dict) else ""


def _schedulers() -> list[tuple[str, Rows]]:
    from llmsim.schedulers import SCHEDULERS
    from llmsim.schema.settings import signature_of

    rows = [
        {"scheduler": name, "settings": ", ".join(signature_of(value).settings) or None, "what": _first_line(value)}
        for name, value in SCHEDULERS.items()
    ]
    return [("schedulers", rows)]


def _routers() -> list[tuple[str, Rows]]:
    from llmsim.fleet import ROUTERS

    return [("routers", [{"router": name, "what": _first_line(value)} for name, value in ROUTERS.items()])]


def _presets() -> list[tuple[str, Rows]]:
    from llmsim.schema.presets import PRESETS

    return [("presets", [{"preset": name, "what": what} for name, what in PRESETS.items()])]


def _first_line(value: Any) -> str:
    return (value.__doc__ or "").strip().split("\n", 1)[0]


@click.command()
@click.argument("name")
@common
def show(name: str) -> None:
    """Print entry NAME of the catalogue as it is written, with its sources; or a scheduler and its settings; or the
    defaults of an engine preset.
    """
    from llmsim.catalog import unknown
    from llmsim.schedulers import SCHEDULERS
    from llmsim.schema.policies import ALIASES

    if ALIASES.get(name, name) in SCHEDULERS:
        _show_scheduler(ALIASES.get(name, name), SCHEDULERS[ALIASES.get(name, name)])
        return

    if "@" in name:
        _show_preset(name)
        return
    found = list(_entries(name))
    if not found:
        raise CatalogError(unknown("catalogue", name, _all_names()))
    for where, path in found:
        text = path.read_text(encoding="utf-8").rstrip("\n")
        out = console()
        if not (out.json or path.suffix == ".json"):
            out.result(f"# {where}")
            out.result(text)
        elif path.suffix == ".json":
            out.note(f"# {where}")
            out.result(text)
        else:
            import yaml

            out.result(json.dumps(yaml.safe_load(text), indent=2, default=str))


def _show_preset(name: str) -> None:
    """Print the flags of an engine's preset, with their defaults."""
    from llmsim.schema.presets import preset_of

    flags = preset_of(name).flags.values()
    rows = [{"flag": one.name, "default": one.default, "status": one.status, "what": one.help} for one in flags]
    console().result(json.dumps(rows, indent=2) if console().json else table(rows))


def _show_scheduler(name: str, scheduler: Any) -> None:
    """Print what a scheduler does, and its settings."""
    import inspect

    from llmsim.schema.settings import REQUIRED, signature_of
    from llmsim.schema.values import shown

    out = console()
    text = inspect.getdoc(scheduler) or ""
    source = inspect.getdoc(inspect.getmodule(scheduler)) or ""
    rows = [
        {"setting": one.name, "default": None if one.default is REQUIRED else shown(one.default), "type": one.words,
         "what": one.help} for one in signature_of(scheduler).settings.values()
    ]  # fmt: skip
    if out.json:
        out.result(json.dumps({"scheduler": name, "rules": source, "what": text, "settings": rows}, indent=2))
        return
    out.result(f"# scheduler {name}\n{text.split('Args:', 1)[0].rstrip()}\n\n{source}\n")
    out.result(table(rows) if rows else "It has no settings of its own; the engine's flags hold.")


_KINDS = ("hardware/devices", "hardware/nodes", "hardware/clusters", "workloads/presets", "workloads/scenarios")


def _entries(name: str) -> Iterator[tuple[str, Path]]:
    """Yield what is called ``name``, under its own name or an alias; a device and a preset may share one."""
    from llmsim import catalog, hardware
    from llmsim.errors import LlmsimError
    from llmsim.model import load_model, model_names

    loaders: dict[str, Callable[[str], Any]] = {
        "hardware/devices": hardware.load_device,
        "hardware/nodes": hardware.load_node,
        "hardware/clusters": hardware.load_cluster,
    }
    for kind in _KINDS:
        entry = name
        if kind in loaders:
            try:
                entry = loaders[kind](name).name
            except LlmsimError:
                continue
        if entry in catalog.names(kind):
            yield f"{kind}/{entry}.yaml", catalog.find(kind, entry)
    try:
        full = load_model(name).name
    except LlmsimError:
        return
    # A quantised spelling such as llama-3.1-8b-fp8 is the record llama-3.1-8b in another format.
    records = [record for record in model_names() if full.startswith(record)]
    if records:
        record = max(records, key=len)
        yield f"model/configs/{record}.json", Path(__file__).parent.parent / "model" / "configs" / f"{record}.json"


def _all_names() -> list[str]:
    from llmsim import catalog
    from llmsim.model import model_names

    return sorted({name for kind in _KINDS for name in catalog.names(kind)} | set(model_names()))
