"""Laying single values over a scenario by dotted key, and evening out the spellings a scenario may use."""

from collections.abc import Mapping
from typing import Any

from llmsim.errors import ScenarioError
from llmsim.schema.flags import ALIASES, FLAGS
from llmsim.schema.source import Key, Source

# Short names of keys that are set often; notebooks, sweeps and --set may use them.
SHORT = {
    "gpu": "cluster.gpu",
    "num_gpus": "cluster.num_gpus",
    "replicas": "deployment.replicas",
    "router": "deployment.router.policy",
    "deployment.router": "deployment.router.policy",
    "trace": "workload.trace.path",
    "workload.trace": "workload.trace.path",
    "request_rate": "workload.arrival.request_rate",
    "workload.request_rate": "workload.arrival.request_rate",
    "burstiness": "workload.arrival.burstiness",
    "num_prompts": "workload.num_prompts",
    "max_concurrency": "workload.arrival.max_concurrency",
    "concurrency": "workload.closed_loop.concurrency",
    "workload.concurrency": "workload.closed_loop.concurrency",
}
# Sections that may be written as one word, and the key that the word stands for.
ONE_WORD: dict[Key, str] = {
    ("cluster",): "name",
    ("deployment", "router"): "policy",
    ("workload", "dataset"): "name",
    ("workload", "arrival"): "kind",
    ("workload", "trace"): "path",
    ("workload", "closed_loop"): "concurrency",
}
# Setting a section that was not there takes away what it stands in for.
_REPLACES: dict[Key, tuple[str, ...]] = {
    ("cluster", "gpu"): ("name", "nodes", "gpus", "links"),
    ("cluster", "name"): ("gpu", "num_gpus", "nodes", "gpus", "links"),
    ("cluster", "nodes"): ("name", "gpu", "num_gpus"),
    ("cluster", "gpus"): ("name", "gpu", "num_gpus"),
    ("workload", "trace"): ("preset", "dataset", "arrival", "closed_loop", "num_prompts"),
    ("workload", "arrival"): ("closed_loop",),
    ("workload", "closed_loop"): ("arrival",),
    ("workload", "dataset"): ("trace",),
    ("workload", "preset"): ("trace", "dataset", "arrival", "closed_loop"),
}


def normalise(source: Source) -> Source:
    """Return ``source`` with vLLM's other spellings replaced by the names in `FLAGS`.

    Under ``engine:`` dashes count as underscores and ``no_enable_x: true`` as ``enable_x: false``.
    """
    engine = source.data.get("engine")
    if not isinstance(engine, dict):
        return source
    renamed: dict[str, Any] = {}
    marks = dict(source.marks)
    for written, value in engine.items():
        name, value = _flag(str(written), value)
        name = written if name in renamed else name
        renamed[name] = value
        if name != written and ("engine", written) in marks:
            marks[("engine", name)] = marks.pop(("engine", written))
    return Source({**source.data, "engine": renamed}, marks)


def _flag(written: str, value: Any) -> tuple[str, Any]:
    name = written.replace("-", "_")
    name = ALIASES.get(name, name)
    switch = FLAGS.get(name.removeprefix("no_"))
    if name.startswith("no_") and name not in FLAGS and switch is not None and switch.kind == "bool":
        return switch.name, not value if isinstance(value, bool) else value
    return (name, value) if name in FLAGS else (written, value)


def full_key(name: str) -> Key:
    """Return the key behind a dotted or short name: ``"gpu"`` is ``("cluster", "gpu")``; a bare engine flag is found.

    Raises:
        ScenarioError: the name is empty or has an empty part.
    """
    name = SHORT.get(name, name)
    bare = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
    if bare in FLAGS:
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
    chosen = {key[:2] for key in values}
    for key, value in values.items():
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
