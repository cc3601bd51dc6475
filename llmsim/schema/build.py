"""Building a scenario: from a file, a text or a dict, with `extends`; or from a handful of plain options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsim.errors import LlmsimError, ScenarioError
from llmsim.schema.document import Scenario
from llmsim.schema.overrides import full_key, normalise, override, put
from llmsim.schema.problems import in_file_order, split
from llmsim.schema.source import Key, Source, merge, read_file, read_text, value_of

SCENARIOS = "workloads/scenarios"  # folder of the catalogue

# Keys that may hold a path; one that exists beside the scenario file is meant relative to that file.
_PATHS: tuple[Key, ...] = (
    ("model",), ("cluster",), ("cluster", "name"), ("cluster", "nodes", "type"), ("cluster", "gpus", "type"),
    ("workload", "trace"), ("workload", "trace", "path"), ("workload", "dataset", "path"),
    ("performance", "calibration"), ("performance", "residuals"),
)  # fmt: skip


def load(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Scenario:
    """Return the scenario in a file, in a YAML text of several lines, or in a dict, or one of the catalogue.

    Args:
        source: a path, the name of a scenario of the catalogue (a file of that name comes first), a text, or the dict
            that `Scenario.to_dict` gives.
        overrides: values to lay over it, by dotted key.
        labels: what to call an override in messages, for example ``--tensor-parallel-size``.

    Raises:
        ScenarioError: with one line for each thing that is wrong, each with file, line, column and key.
    """
    read = _read(source)
    labels = labels or {}
    values = {full_key(name, value): value for name, value in (overrides or {}).items()}
    read = normalise(override(normalise(read), values, {full_key(name): text for name, text in labels.items()}))
    try:
        return Scenario.from_source(read)
    except ScenarioError as error:
        raise ScenarioError("\n".join(_with_later_problems(str(error), read))) from None


def scenario(**options: Any) -> Scenario:
    """Return a scenario from plain options: ``scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8)``.

    Options are the keys of a scenario file, the short names gpu, num_gpus, replicas, router, trace, request_rate,
    burstiness, num_prompts and concurrency, input_len and output_len of a random workload, and every engine flag.

    Raises:
        ScenarioError: an option is unknown or wrong.
    """
    base: dict[str, Any] = {}
    for name, length in (("input_len", 1024), ("output_len", 128)):
        given = options.pop(name, None)
        if given is not None:
            dataset = base.setdefault("workload", {}).setdefault("dataset", {"name": "random"})
            dataset[name] = given
            dataset.setdefault("output_len" if name == "input_len" else "input_len", 1152 - length)
    values = {full_key(name, value): value for name, value in options.items()}
    try:
        return Scenario.from_source(override(Source(base), values, {}))
    except ScenarioError as error:
        hint = 'cluster: missing\nhint: gpu="h100-sxm", or cluster="NAME" of the catalogue'
        raise ScenarioError(str(error).replace("cluster: missing", hint)) from None


def _read(source: str | Path | Mapping[str, Any]) -> Source:
    if isinstance(source, Mapping):
        if "extends" in source:
            raise ScenarioError("extends: works in a file only: load the base and use with_()")
        return Source(dict(source))
    if isinstance(source, str) and ("\n" in source or source.lstrip()[:1] == "{"):
        return _extended(read_text(source, "scenario"), Path(), ())
    return _file(_found(source), ())


def _found(source: str | Path) -> Path:
    """Return the file called ``source``, or that of the catalogue's scenario of this name."""
    path = Path(source)
    if isinstance(source, str) and not path.suffix and path.name == source and not path.exists():
        from llmsim import catalog

        known = catalog.names(SCENARIOS)
        if source not in known:
            hint = catalog.unknown(SCENARIOS, source, known).rpartition("\n")[2]
            raise ScenarioError(f"{source}: no such file, and no scenario of the catalogue\n{hint}")
        return catalog.find(SCENARIOS, source)
    return path


def _file(path: Path, chain: tuple[Path, ...]) -> Source:
    if path.resolve() in chain:
        raise ScenarioError(f"{path}: extends itself, by way of {' -> '.join(one.name for one in chain)}")
    return _extended(read_file(path), path.parent, (*chain, path.resolve()))


def _extended(read: Source, folder: Path, chain: tuple[Path, ...]) -> Source:
    data = dict(read.data)
    base = data.pop("extends", None)
    read = _relative_to(folder, Source(data, read.marks))
    if base is None:
        return read
    if not isinstance(base, str):
        raise ScenarioError(f"{read.where(('extends',))}: not the path of one file (got {base!r})")
    if not (folder / base).is_file():
        raise ScenarioError(f"{read.where(('extends',))}: no such file (got {base!r})")
    return merge(normalise(_file(folder / base, chain)), normalise(read))


def _relative_to(folder: Path, read: Source) -> Source:
    """Return ``read`` with relative paths that exist below ``folder`` made relative to the working directory."""
    for key in _PATHS:
        inner: Any = read.data
        for part in key:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, str) and not Path(inner).is_absolute() and (folder / inner).is_file():
            read = Source(put(read.data, key, str(folder / inner)), read.marks)
    return read


def _with_later_problems(message: str, read: Source) -> list[str]:
    """Return the problems of ``message`` and those that show only once the wrong keys are taken away."""
    from llmsim.schema.resolution import resolve

    lines, later, data = [], split(message), read.data
    while later:
        lines += later
        wrong = [key for key in sorted(read.marks, key=len, reverse=True) if key and _is_named(read.where(key), later)]
        for key in wrong:
            data = _without(data, key)
        later = []
        try:
            rest = Scenario.from_source(Source(data, read.marks))
        except ScenarioError as error:
            later = [line for line in split(str(error)) if line not in lines and not _follows(line)]
            continue
        try:
            resolve(rest)
        except LlmsimError as error:
            lines += [line for line in split(str(error)) if line not in lines]
    return in_file_order(lines)


def _follows(line: str) -> bool:
    """Return whether a finding may only come from what was taken away."""
    return line.endswith((": missing", "(got nothing)"))


def _is_named(where: str, lines: list[str]) -> bool:
    return any(line.startswith(f"{where}: ") for line in lines)


def _without(data: dict[str, Any], key: Key) -> dict[str, Any]:
    head, *rest = key
    if head not in data:
        return data
    if not rest:
        return {name: value for name, value in data.items() if name != head}
    inner = data[str(head)]
    return {**data, str(head): _without(inner, tuple(rest))} if isinstance(inner, dict) else data


def parse_setting(text: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``, the value read as YAML.

    Raises:
        ScenarioError: there is no ``=``.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise ScenarioError(f"--set {text}: not of the form KEY=VALUE")
    return name.strip(), value_of(value.strip())
