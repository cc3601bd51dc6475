"""Reading YAML, JSON and TOML into plain data that remembers file, line and column of every key.

Scalars follow YAML 1.2, not PyYAML's YAML 1.1: ``1e9`` is a number, ``12:30`` a text and not 750, ``no`` a text
and not False (a yes-or-no option still takes it), ``2023-11-16`` a text and not a date, ``010`` ten and not eight.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmsim.errors import ScenarioError

Key = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?(\.inf|\.Inf|\.INF|inf)")


@dataclass(slots=True)
class Source:
    """Data as given, and where: ``marks[("engine", "watermark")]`` is ``"x.yaml:6:3"`` or ``"--watermark"``."""

    data: dict[str, Any]
    marks: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Return ``"x.yaml:6:3: engine.max_num_seqs"`` for ``key``, with the nearest place that is known.

        A mark that starts with ``--`` is an option of the command line and says enough alone; an empty one
        belongs to a value that came from Python.
        """
        name = dotted(key)
        for length in range(len(key), -1, -1):
            mark = self.marks.get(key[:length])
            if mark is not None:
                return mark if mark.startswith("--") else ": ".join(part for part in (mark, name) if part)
        return name or "scenario"


def dotted(key: Key) -> str:
    """Return ``key`` as text: ``("cluster", "links", 0, "kind")`` is ``cluster.links[0].kind``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def scalar(text: str) -> Any:
    """Return the value of an unquoted scalar under the rules of YAML 1.2, JSON's numbers with exponents included."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def value_of(text: str) -> Any:
    """Return the value of ``text`` on a command line: any YAML, such as ``8``, ``[1, 2]`` or ``{name: random}``."""
    try:
        return parse(text, "value").data["value"] if text[:1] in "[{'\"" else scalar(text)
    except (ScenarioError, KeyError):
        return text


def read_file(path: Path) -> Source:
    """Read a scenario file: .toml by its name, anything else as YAML (JSON is a part of YAML).

    Raises:
        ScenarioError: the file cannot be read, or is not well formed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read as text ({error})") from None
    if path.suffix != ".toml":
        return read_text(text, str(path))
    try:
        return Source(tomllib.loads(text), {(): str(path)})
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}") from None


def read_text(text: str, name: str) -> Source:
    """Read YAML ``text``; ``name`` stands for the file in messages.

    Raises:
        ScenarioError: not well formed, not a mapping, or a key that is given twice.
    """
    source = parse(text, name)
    data = source.data["value"]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ScenarioError(f"{name}: a scenario is a mapping of keys to values (got {type(data).__name__})")
    return Source(data, source.marks)


def parse(text: str, name: str) -> Source:
    """Return the document of ``text`` as ``Source({"value": document})``."""
    loader = yaml.BaseLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ScenarioError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{name}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    reader = _Reader(name)
    document = None if node is None else reader.construct(node, ())
    if reader.problems:
        raise ScenarioError("\n".join(reader.problems))
    return Source({"value": document}, reader.marks)


class _Reader:
    """Makes plain data of a YAML node tree, and notes where each key stands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.marks: dict[Key, str] = {(): name}
        self.problems: list[str] = []
        self._open: list[yaml.Node] = []

    def construct(self, node: yaml.Node, key: Key) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            self.problems.append(f"{self._place(node)}: tags such as {node.tag} are not supported")
            return None
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None else node.value
        if any(node is other for other in self._open):
            self.problems.append(f"{self._place(node)}: an alias must not contain itself")
            return None
        self._open.append(node)
        try:
            return self._mapping(node, key) if isinstance(node, yaml.MappingNode) else self._list(node, key)
        finally:
            self._open.pop()

    def _list(self, node: yaml.Node, key: Key) -> list[Any]:
        values = []
        for index, item in enumerate(node.value):
            self.marks[(*key, index)] = self._place(item)
            values.append(self.construct(item, (*key, index)))
        return values

    def _mapping(self, node: yaml.Node, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{self._place(key_node)}: a key must be a plain word")
                continue
            name = key_node.value
            if name == "<<" and key_node.style is None:
                merged = self.construct(value_node, key)
                for part in reversed(merged if isinstance(merged, list) else [merged]):
                    data = {**(part or {}), **data}
                continue
            if name in own:
                first = self.marks[(*key, name)]
                self.problems.append(f"{self._place(key_node)}: {dotted((*key, name))}: given twice (first at {first})")
                continue
            own.add(name)
            self.marks[(*key, name)] = self._place(key_node)
            data[name] = self.construct(value_node, (*key, name))
        return data

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def merge(base: Source, over: Source) -> Source:
    """Return ``base`` with everything in ``over`` laid on top: mappings merge deeply, lists and values are replaced."""
    result = Source(base.data, {**base.marks})
    data = _merge(base.data, over.data, over, result, ())
    result.marks[()] = over.marks.get((), base.marks.get((), ""))
    if not result.marks[()]:
        del result.marks[()]
    return Source(data, result.marks)


def _merge(
    base: Mapping[str, Any], over: Mapping[str, Any], source: Source, result: Source, key: Key
) -> dict[str, Any]:
    data = dict(base)
    for name, value in over.items():
        here = (*key, name)
        if isinstance(value, Mapping) and isinstance(base.get(name), Mapping):
            data[name] = _merge(base[name], value, source, result, here)
            continue
        data[name] = value
        stale = [mark for mark in result.marks if mark[: len(here)] == here]
        for mark in stale:
            del result.marks[mark]
        result.marks |= {mark: place for mark, place in source.marks.items() if mark[: len(here)] == here}
    return data
