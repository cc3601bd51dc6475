"""Models: the shape of any Hugging Face ``config.json``, and records of well-known ones."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmsim import catalog
from llmsim.errors import ModelError
from llmsim.model.padding import with_heads
from llmsim.model.parse import shape_of
from llmsim.model.shape import Attention, CacheGroup, FeedForward, Layer, ModelShape

__all__ = [
    "Attention",
    "CacheGroup",
    "FeedForward",
    "Layer",
    "ModelShape",
    "load_model",
    "model_names",
]

_CONFIGS = Path(__file__).parent / "configs"
# Endings of a name that change nothing of the shape, and those that name a quantised checkpoint.
_TRAINING = r"(instruct|chat|it|base|hf|pt|inst|bf16|original|(?:\d{4}|v\d+\.\d+)(?=-instruct))"
_FORMATS = {
    r"fp8(-dynamic|-block|-kv)?": "fp8",
    r"(nvfp4|fp4)": "nvfp4",
    r"mxfp4": "mxfp4",
    r"(awq|gptq)(-int4|-4bit)?": "int4",
    r"(w8a8|quantized\.w8a8)": "w8a8",
    r"(gptq-int8|int8)": "int8",
    r"(gguf-)?q4[-_]k[-_]m(-gguf)?": "q4_k_m",
    r"(gguf-)?q5[-_]k[-_]m(-gguf)?": "q5_k_m",
    r"(gguf-)?q6[-_]k(-gguf)?": "q6_k",
    r"(gguf-)?q4[-_]0(-gguf)?": "q4_0",
    r"(gguf-)?q8[-_]0(-gguf)?": "q8_0",
    r"(int4|4bit|w4a16|quantized\.w4a16)": "int4",
}


def model_names() -> list[str]:
    """Return the names of all records in the catalogue, in alphabetical order."""
    return sorted(path.stem for path in _CONFIGS.glob("*.json"))


def load_model(source: str | Path | Mapping[str, Any]) -> ModelShape:
    """Return the shape of a model, without ever asking the network.

    ``source`` is a config.json's content, a path to one (or to the folder that holds it), the name or
    an alias of a catalogue record, or a Hugging Face id, whose config.json is then looked for in the
    local Hugging Face cache first and in the catalogue's aliases next.  An ending such as ``-FP8`` or
    ``-AWQ`` on a catalogue name sets the weight format; a last ending such as ``-heads64`` pads the query heads.

    Raises:
        ModelError: nothing of that name is known, the file is broken, or its family is not supported.
    """
    if isinstance(source, Mapping):
        return shape_of(source, name=str(source.get("_name", source.get("name", "inline"))))
    path = Path(source)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if path.suffix == ".json" or path.is_file():
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
        return shape_of(_read(path), name=name, source=str(source))
    name = str(source).strip()
    padded = re.fullmatch(r"(.+)-heads(\d+)", name)
    if padded:
        return with_heads(load_model(padded[1]), int(padded[2]))
    cached = _cached(name)
    if cached is not None:
        return shape_of(_read(cached), name=name.split("/")[-1].lower(), source=str(cached))
    return _record(name)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: not a mapping of keys to values")
    separate = path.parent / "hf_quant_config.json"
    if separate.is_file() and "quantization_config" not in content and path.name == "config.json":
        said = _read(separate).get("quantization")
        content = {**content, "quantization_config": {"quant_method": "modelopt", **(said or {})}}
    return content


def _cached(name: str) -> Path | None:
    """Return the config.json of a Hugging Face id in the local cache, that of the newest snapshot."""
    if name.count("/") != 1:
        return None
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.join(Path.home(), ".cache", "huggingface"), "hub"
    )
    folder = Path(home) / f"models--{name.replace('/', '--')}"
    main = folder / "refs" / "main"
    if main.is_file():
        wanted = folder / "snapshots" / main.read_text(encoding="utf-8").strip() / "config.json"
        if wanted.is_file():
            return wanted
    found = sorted(folder.glob("snapshots/*/config.json"), key=lambda path: (path.stat().st_mtime, str(path)))
    return found[-1] if found else None


def _record(name: str) -> ModelShape:
    """Return the catalogue's record for a name, an alias, or a Hugging Face id."""
    records = {path.stem: _read(path) for path in sorted(_CONFIGS.glob("*.json"))}
    known = {record: record for record in records}
    for record, content in records.items():
        known.update((_plain(str(alias)), record) for alias in content.get("_aliases", ()))
    wanted, weight_format = _plain(name), None
    while wanted not in known:
        shorter, said = _without_ending(wanted)
        if shorter == wanted:
            raise ModelError(_unknown(name, sorted(records)))
        wanted, weight_format = shorter, said or weight_format
    record = known[wanted]
    source = f"catalogue record {record}"
    shape = shape_of(records[record], name=record, source=source)
    if weight_format is not None:
        shape = replace(shape, name=f"{record}-{weight_format}", weight_format=weight_format, attention_format=None)
    return shape


def _plain(name: str) -> str:
    """Return the form in which names are compared: no organisation, lower case, dashes, no ``meta-``."""
    return re.sub(r"[\s_]+", "-", name.split("/")[-1].lower()).removeprefix("meta-")


def _without_ending(name: str) -> tuple[str, str | None]:
    """Return a name less one ending that says how it was trained or quantised, and the format if it does."""
    for pattern, weight_format in _FORMATS.items():
        shorter = re.sub(rf"-{pattern}$", "", name)
        if shorter != name:
            return shorter, weight_format
    return re.sub(rf"-{_TRAINING}$", "", name), None


def _unknown(name: str, known: list[str]) -> str:
    message = catalog.unknown("model", _plain(name), known).replace(repr(_plain(name)), repr(name))
    return f"{message}; or give the path of a config.json"
