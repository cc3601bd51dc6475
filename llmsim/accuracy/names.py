"""Names that people write for devices and models, found in the catalogue."""

import re
from functools import cache

from llmsim import catalog
from llmsim.errors import CatalogError, ModelError
from llmsim.hardware import Device, load_device
from llmsim.model import load_model
from llmsim.model.shape import ModelShape

# Words of a catalogue name that a person may leave out: the usual form of a card, and the maker's brand.
_OPTIONAL = frozenset({"sxm", "rtx"})
_MEMORY = re.compile(r"(\d+)\s?g(?:i?b)?")
# How far a memory size in a name may be from the data sheet's: 141 for 144, 180 for 192.
_MEMORY_SLACK = 0.12

# Spellings of model names, rewritten before they are looked up.
_SPELLINGS = (
    (r"\(.*?\)", ""),  # explanations
    (r"-99(\.9+)?$", ""),  # MLPerf's share of the reference accuracy
    (r"^llama\s*[-_]?v?(\d)(?=[-_ .])", r"llama-\1"),
    (r"^llama v", "llama "),
    (r"^gptj", "gpt-j"),
    (r"^gpt-j$", "gpt-j-6b"),
    (r"^gpt-j[ -]6b$", "gpt-j-6b"),
    (r"^llama[ -]2[ -](\d+b)[ -]chat$", r"llama-2-\1"),
    (r"^llama[ -](\d+b)$", r"llama-\1"),
    (r"^deepseek[ -]r1.*$", "deepseek-r1"),
    (r"^bert$", "bert-large"),  # MLPerf's
)  # fmt: skip


@cache
def devices() -> dict[str, Device]:
    """Return every device of the catalogue by its name."""
    return {name: load_device(name) for name in catalog.names("hardware/devices")}


@cache
def device_named(*texts: str) -> Device:
    """Return the catalogue's device that one of ``texts``, tried in order, names.

    All words of the catalogue's name must stand in the text, the usual form of a card apart; a memory size in the
    text must be the device's.

    Raises:
        CatalogError: none does.
    """
    for text in texts:
        found = _device(text)
        if found is not None:
            return found
    raise CatalogError(f"unknown device (got {texts[0]!r})")


def _device(text: str) -> Device | None:
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    sizes = [int(size) for size in _MEMORY.findall(text.lower())]
    ranked = []
    for name, device in devices().items():
        for spelling in (name, *device.aliases):
            wanted = set(re.findall(r"[a-z0-9]+", spelling.lower()))
            missing = wanted - words - _OPTIONAL
            if missing or not wanted & words:
                continue
            if sizes and not any(_same_size(size, device) for size in sizes) and device.kind == "gpu":
                continue
            ranked.append((len(wanted & words), -len(wanted - words), name))
    if not ranked:
        return None
    ranked.sort(reverse=True)
    best = [name for found, missing, name in ranked if (found, missing) == ranked[0][:2]]
    # Two cards of one name that differ in memory only are not told apart.
    return devices()[best[0]] if len(set(best)) == 1 else None


def _same_size(size: int, device: Device) -> bool:
    return abs(size * 1e9 / device.memory_bytes - 1.0) < _MEMORY_SLACK


@cache
def model_named(*texts: str) -> ModelShape:
    """Return the catalogue's model that one of ``texts``, tried in order, names.

    Raises:
        ModelError: none does; or the model is known and of a kind that is not supported.
    """
    first: ModelError | None = None
    for text in texts:
        for name in dict.fromkeys((_rewritten(text), text)):
            try:
                return load_model(name)
            except ModelError as error:
                first = first or error
    assert first is not None
    raise ModelError(f"unknown model (got {texts[0]!r})" if "unknown" in str(first) else str(first).splitlines()[0])


def _rewritten(text: str) -> str:
    name = text.lower().strip().split("/")[-1]
    for pattern, replacement in _SPELLINGS:
        name = re.sub(pattern, replacement, name).strip()
    return re.sub(r"\s+", "-", name)
