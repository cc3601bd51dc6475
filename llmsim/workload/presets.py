"""Workloads by name: fields for a `WorkloadSpec`, with their origin and what they are not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmsim.catalog import names
from llmsim.errors import CatalogError, ScenarioError
from llmsim.workload.spec import WorkloadSpec
from llmsim.workload.tables import load_record

_KIND = "workloads/presets"
_SECTIONS = ("dataset", "arrival", "closed_loop", "sessions")
_OF_USERS = ("users", "rest_s", "ramp_s")


@dataclass(frozen=True, slots=True)
class Preset:
    """One entry of `workloads/presets`; ``workload`` holds the fields, ``slo`` what such a service is held to."""

    name: str
    title: str
    origin: str
    note: str
    workload: dict[str, Any]
    slo: dict[str, Any]


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return names(_KIND)


def load_preset(name: str) -> Preset:
    """Return the preset ``name``.

    Raises:
        CatalogError: there is no such preset, or its file is incomplete.
    """
    record = load_record(name, _KIND)
    try:
        return Preset(
            name,
            str(record["title"]),
            str(record["origin"]),
            str(record["note"]),
            dict(record["workload"]),
            dict(record.get("slo", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{_KIND}/{name}.yaml: needs title, origin, note and workload ({error})") from error


def filled(spec: WorkloadSpec) -> WorkloadSpec:
    """Return ``spec`` with what it leaves open filled from its preset.

    A section is merged key by key, unless it names another kind of arrival or dataset: then it stands alone.
    A closed loop or users of sessions in the spec replace the preset's arrivals, and arrivals replace those.

    Raises:
        CatalogError: the preset is not known or broken.
        ScenarioError: the preset and the trace leave nothing of each other.
    """
    if spec.preset is None:
        return spec
    fields = load_preset(spec.preset).workload
    if spec.trace is not None:
        raise ScenarioError(
            f"workload.preset: {spec.preset} and workload.trace both say what is asked\nhint: give one of them"
        )
    merged: dict[str, Any] = {
        name: _merged(fields.get(name), getattr(spec, name), "name" if name == "dataset" else "kind")
        for name in _SECTIONS
    }
    if spec.closed_loop is not None and spec.arrival is None:
        merged["arrival"] = None
    if spec.arrival is not None and spec.closed_loop is None:
        merged["closed_loop"] = None
    if merged["sessions"] is not None:
        if "users" in (spec.sessions or {}) and spec.arrival is None:
            merged["arrival"] = None
        elif spec.arrival is not None and "users" not in (spec.sessions or {}):
            merged["sessions"] = {key: value for key, value in merged["sessions"].items() if key not in _OF_USERS}
    return replace(spec, **merged, num_prompts=spec.num_prompts or fields.get("num_prompts"), preset=None)


def _merged(below: Mapping[str, Any] | None, above: Mapping[str, Any] | None, kind: str) -> dict[str, Any] | None:
    if below is None or above is None:
        chosen = below if above is None else above
        return None if chosen is None else dict(chosen)
    if kind in above and above[kind] != below.get(kind):
        return dict(above)
    return {**below, **above}
