"""Find out a trace's format from its content; the name of a file says nothing."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsim.catalog import unknown
from llmsim.errors import TraceError
from llmsim.workload.readers import synonyms
from llmsim.workload.readers.files import first_lines, head
from llmsim.workload.readers.formats import ALIASES, FORMATS, Format, header_of
from llmsim.workload.readers.lines import flattened

_SAMPLE = 50  # lines that are looked at


def format_named(name: str, path: Path, columns: Mapping[str, str] | None = None) -> Format:
    """Return the format ``name``, or for ``auto`` what `detect` finds in ``path``.

    ``columns`` that were told make a file one of columns (or JSON lines) of whatever names.

    Raises:
        TraceError: the name or the content is not known, or the format has no use for ``columns``.
    """
    if columns:
        return _with_columns(name, path, columns)
    if name == "auto":
        return detect(path)
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise TraceError(unknown("trace formats", name, sorted(FORMATS)))
    return FORMATS[name]


def _with_columns(name: str, path: Path, columns: Mapping[str, str]) -> Format:
    kind = name.removesuffix("_lengths")
    if kind == "auto":
        kind = "jsonl" if head(path).lstrip()[:1] == "{" else "csv"
    if kind not in ("csv", "jsonl"):
        raise TraceError(f"{path.name}: columns can be named for csv and jsonl only (got format {name!r})")
    items = _first_objects(first_lines(path, _SAMPLE)) if kind == "jsonl" else []
    header = header_of(head(path)) if kind == "csv" else _names_of(items)
    timed = "time" in columns or synonyms.pick(synonyms.TIME_NAMES, header) is not None
    return FORMATS[kind if timed else f"{kind}_lengths"]


def detect(path: Path) -> Format:
    """Return the format of the file or folder ``path``.

    Raises:
        TraceError: the content belongs to no known format; the message says what was found.
    """
    return FORMATS[_name(path)]


def _name(path: Path) -> str:
    if path.is_dir():
        if any(path.glob("chunk-*-trace.csv")):
            return "servegen"
        raise TraceError(f"{path.name}: a folder without chunk-*-trace.csv is not a trace")
    text = head(path)
    start = text.lstrip()[:1]
    if not start:
        raise TraceError(f"{path.name}: is empty")
    if start == "[":
        return "sharegpt"
    return _of_objects(path) if start == "{" else _of_table(text, path)


def _of_objects(path: Path) -> str:
    items = _first_objects(first_lines(path, _SAMPLE))
    if not items:
        raise TraceError(f"{path.name}:row 1: is not a JSON object on one line")
    keys = items[0].keys()
    if "conversations" in keys:
        return "sharegpt"
    if {"chat_id", "parent_chat_id", "timestamp", "input_length"} <= keys:
        return "bailian"
    if {"timestamp", "input_length", "output_length"} <= keys:
        return _of_hashes(items)
    if isinstance(items[0].get("input"), str) and {"timestamp", "session_id"} <= keys:
        return "lmcache_agent"
    if isinstance(items[0].get("prompt"), str | list):
        return "vllm_custom"
    return _of_names("jsonl", _names_of(items), path)


def _of_hashes(items: list[dict[str, Any]]) -> str:
    # One identifier a block: how many there are tells the block's size.
    lengths = [(item.get("input_length"), item.get("hash_ids")) for item in items]
    counted = [(tokens, len(ids)) for tokens, ids in lengths if isinstance(tokens, int) and isinstance(ids, list)]
    large = sum(-(-tokens // 512) == ids for tokens, ids in counted)
    small = sum(-(-tokens // 16) == ids for tokens, ids in counted)
    return "timed_trace" if small > large else "mooncake"


def _of_table(text: str, path: Path) -> str:
    header = header_of(text)
    names = set(header)
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= names:
        if "NumImages" in names:
            return "azure_lmm_2025"
        first = text.splitlines()[1:2]
        return "azure_2024" if first and "+" in first[0] else "azure_2023"
    if {"Timestamp", "Model", "Request tokens", "Response tokens"} <= names:
        return "burstgpt_v2" if "Session ID" in names else "burstgpt_v1"
    if {"num_prefill_tokens", "num_decode_tokens"} <= names:
        return "vidur" if "arrived_at" in names else "vidur_lengths"
    if {"Date", "Time", "PromptTokenCount", "CompletionTokenCount"} <= names:
        return "vidur_dated"
    if _is_servegen(text):
        return "servegen"
    return _of_names("csv", header, path)


def _of_names(kind: str, names: list[str], path: Path) -> str:
    if synonyms.pick(synonyms.PROMPT_NAMES, names) is None or synonyms.pick(synonyms.OUTPUT_NAMES, names) is None:
        found = ", ".join(names)
        raise TraceError(
            f"{path.name}: is of no known format: no columns for prompt and output tokens (got {found[:200]})\n"
            "hint: tell which they are: --trace-columns time=...,prompt=...,output=... (of llmsim trace: --columns), "
            "or in a scenario trace: {columns: {time: ..., prompt: ..., output: ...}}"
        )
    return kind if synonyms.pick(synonyms.TIME_NAMES, names) else f"{kind}_lengths"


def _is_servegen(text: str) -> bool:
    for cells in csv.reader(text.splitlines()[:_SAMPLE]):
        if len(cells) != 6 or cells[3] not in ("", "Gamma", "Weibull"):
            return False
        try:
            float(cells[0]), float(cells[1])
        except ValueError:
            return False
    return True


def _names_of(items: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for item in items for name in flattened(item)))


def _first_objects(lines: list[str]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for line in lines:
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(item, dict):
            items.append(item)
    return items
