"""Laying single values over a scenario by dotted key, and evening out the spellings a scenario may use."""

from collections.abc import Mapping
from typing import Any

from llmsim.errors import ScenarioError
from llmsim.schema.flags import ALIASES, DEFAULT_PRESET
from llmsim.schema.other_flags import ALL_FLAGS, NEGATED, NESTED, OTHER_SPELLINGS, SPELLINGS, engine_of
from llmsim.schema.source import Key, Source

# Short names of keys that are set often; notebooks, sweeps and --set may use them.
SHORT = {
    "gpu": "cluster.gpu",
    "num_gpus": "cluster.num_gpus",
    "preset": "engine.preset",
    "prune": "model_transform.prune",
    "prune_kind": "model_transform.prune_kind",
    "distill_to": "model_transform.distill_to",
    "replicas": "deployment.replicas",
    "router": "deployment.router.policy",
    "deployment.router": "deployment.router.policy",
    "trace": "workload.trace.path",
    "workload.trace": "workload.trace.path",
    "request_rate": "workload.arrival.request_rate",
    "workload.request_rate": "workload.arrival.request_rate",
    "burstiness": "workload.arrival.burstiness",
    "num_prompts": "workload.num_prompts",
    "speedup": "workload.trace.speedup",
    "max_concurrency": "workload.arrival.max_concurrency",
    "first_tokens": "output.first_tokens",
    "concurrency": "workload.closed_loop.concurrency",
    "workload.concurrency": "workload.closed_loop.concurrency",
}
# Sections that may be written as one word, and the key that the word stands for.
ONE_WORD: dict[Key, str] = {
    ("cluster",): "name",
    ("scheduler",): "name",
    ("deployment", "router"): "policy",
    ("workload", "dataset"): "name",
    ("workload", "arrival"): "kind",
    ("workload", "trace"): "path",
    ("workload", "closed_loop"): "concurrency",
}
# Flags that authorise: their values change nothing here, and must not end up in the files of a run.
SECRETS = ("api_key", "hf_token", "admin_api_key")
WITHHELD = "(withheld)"
# Setting a section that was not there takes away what it stands in for.
_REPLACES: dict[Key, tuple[str, ...]] = {
    ("cluster", "gpu"): ("name", "nodes", "gpus", "links"),
    ("cluster", "name"): ("gpu", "num_gpus", "nodes", "gpus", "links"),
    ("cluster", "nodes"): ("name", "gpu", "num_gpus"),
    ("cluster", "gpus"): ("name", "gpu", "num_gpus"),
    ("workload", "trace"): ("preset", "dataset", "arrival", "closed_loop", "sessions", "num_prompts"),
    ("workload", "arrival"): ("closed_loop",),
    ("workload", "closed_loop"): ("arrival", "sessions"),
    ("workload", "sessions"): ("trace", "dataset", "closed_loop", "num_prompts"),
    ("workload", "dataset"): ("trace", "sessions"),
    ("workload", "preset"): ("trace", "dataset", "arrival", "closed_loop", "sessions"),
}


def normalise(source: Source) -> Source:
    """Return ``source`` with an engine's other spellings replaced by the names in `ALL_FLAGS`.

    Under ``engine:`` dashes count as underscores and ``no_enable_x: true`` as ``enable_x: false``; what else is
    another spelling depends on the engine of the preset (`llmsim.schema.other_flags`).
    """
    section = source.data.get("engine")
    if not isinstance(section, dict):
        return source
    engine = engine_of(section.get("preset", DEFAULT_PRESET))
    renamed: dict[str, Any] = {}
    marks = dict(source.marks)
    for written, value in section.items():
        for way, name, part in _flags(str(written), value, engine):
            here = ("engine", written, *way)
            if name in renamed:
                name = written  # given twice, in two spellings: the second one stays as it is, and is unknown
            renamed[name] = part
            if name != written and here in marks:
                marks[("engine", name)] = marks[here] if way else marks.pop(here)
    return Source({**source.data, "engine": renamed}, marks)


def _flags(written: str, value: Any, engine: str) -> list[tuple[tuple[str, ...], str, Any]]:
    """Return (the way to it, its name, its value) for each flag that ``written`` gives: one, or those within it."""
    name = written.replace("-", "_")
    within = NESTED[engine].get(name)
    if within is not None and isinstance(value, Mapping):
        known = [((key,), within[key], part) for key, part in value.items() if key in within]
        rest = {key: part for key, part in value.items() if key not in within}
        return [*known, *([((), name, rest)] if rest else [])]
    if name in NEGATED[engine]:
        return [((), NEGATED[engine][name], not value if isinstance(value, bool) else value)]
    name = SPELLINGS[engine].get(name, name)
    switch = ALL_FLAGS.get(name.removeprefix("no_"))
    if name.startswith("no_") and name not in ALL_FLAGS and switch is not None and switch.kind == "bool":
        return [((), switch.name, not value if isinstance(value, bool) else value)]
    if name in SECRETS and value is not None:
        value = WITHHELD
    return [((), name if name in ALL_FLAGS else written, value)]


def _expanded(
    source: Source, values: Mapping[Key, Any], labels: Mapping[Key, str]
) -> tuple[dict[Key, Any], dict[Key, str]]:
    """Return ``values`` and ``labels`` with the engine's flags under their one name."""
    section = source.data.get("engine")
    before = section.get("preset", DEFAULT_PRESET) if isinstance(section, Mapping) else DEFAULT_PRESET
    engine = engine_of(values.get(("engine", "preset"), before))
    plain: dict[Key, Any] = {}
    named: dict[Key, str] = {}
    for key, value in values.items():
        if key[0] != "engine" or len(key) < 2 or key[1] == "preset":
            flat = {key: value}
        else:
            inner = {str(key[2]): value} if len(key) == 3 and str(key[1]) in NESTED[engine] else value
            rest = () if inner is not value else key[2:]
            flat = {("engine", name, *rest): part for _, name, part in _flags(str(key[1]), inner, engine)}
        plain |= flat
        named |= {one: labels[key] for one in flat if key in labels}
    return plain, named


def full_key(name: str, value: Any = None) -> Key:
    """Return the key behind a dotted or short name: ``"gpu"`` is ``("cluster", "gpu")``; a bare engine flag is found.

    A section that may be one word stands for that word, unless its ``value`` is a mapping: then for all of it.

    Raises:
        ScenarioError: the name is empty or has an empty part.
    """
    name = SHORT.get(name, name)
    section, _, word = name.rpartition(".")
    if isinstance(value, Mapping) and ONE_WORD.get(tuple(section.split("."))) == word:
        name = section
    bare = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
    if bare in ALL_FLAGS or bare in OTHER_SPELLINGS:
        return ("engine", bare)
    parts = tuple(name.split("."))
    if not all(parts):
        raise ScenarioError(f"{name!r}: not a dotted key such as 'engine.max_num_seqs'")
    return parts


def override(source: Source, values: Mapping[Key, Any], labels: Mapping[Key, str]) -> Source:
    """Return ``source`` with ``values`` laid over it; ``labels`` says what to call each of them in messages.

    Raises:
        ScenarioError: a key leads through a value that is not a mapping.
    """
    data, marks = dict(source.data), dict(source.marks)
    values, labels = _expanded(source, values, labels)
    chosen = {key[:2] for key in values}
    # What holds a section comes before what is set within it: a scheduler by name, then a setting of it.
    for key, value in sorted(values.items(), key=lambda item: len(item[0])):
        inner = data
        for depth, part in enumerate(key[:-1], 1):
            inner[str(part)] = inner = _opened(inner.get(str(part)), key[:depth])
            if depth == 1 and inner.get(str(key[1])) is None:
                for other in _REPLACES.get(key[:2], ()):
                    if (part, other) not in chosen:
                        inner.pop(other, None)
        inner[str(key[-1])] = value
        marks = {mark: place for mark, place in marks.items() if mark[: len(key)] != key}
        marks[key] = labels.get(key, "")
    return Source(data, marks)


def _opened(value: Any, key: Key) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if key in ONE_WORD:
        return {ONE_WORD[key]: value}
    raise ScenarioError(f"{'.'.join(map(str, key))}: not a mapping, so nothing can be set below it (got {value!r})")


def put(data: dict[str, Any], key: Key, value: Any) -> dict[str, Any]:
    """Return ``data`` with ``value`` at ``key``, whose way there exists, and nothing else changed."""
    head, *rest = key
    return {**data, str(head): put(data[str(head)], tuple(rest), value) if rest else value}
