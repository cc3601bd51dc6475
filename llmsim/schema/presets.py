"""Engine presets: an engine and its version, whose defaults, memory rule and scheduler hold."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmsim.errors import ScenarioError
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.schema import sglang, trtllm, vllm
from llmsim.schema.filler import Filled, Filler
from llmsim.schema.flags import Flag
from llmsim.schema.other_flags import SGLANG_FLAGS, TRTLLM_FLAGS

# The names that lists show; other versions of vLLM take the rules of the latest change before them.
PRESETS: dict[str, str] = {
    **{f"vllm@{major}.{minor}": what for (major, minor), what in vllm.CHANGES.items()},
    "sglang@0.5": "prompts before decodes, radix cache, share of memory for weights and cache",
    "trtllm@1": "in-flight batching of TensorRT-LLM, share of the memory that is left",
}
_VERSION = re.compile(r"(\d+)\.(\d+)(\.\w+)*")


@dataclass(frozen=True, slots=True)
class Preset:
    """An engine and its version.  ``fill`` works out the options of an engine."""

    name: str
    flags: dict[str, Flag]
    fill: Callable[[Filler, ModelShape, Device], Filled]


def preset_of(name: str) -> Preset:
    """Return the preset ``name``, such as ``vllm@0.19``: the rules of the latest change up to that version.

    Raises:
        ScenarioError: the engine or its version is not known.
    """
    engine, _, version = name.partition("@")
    if engine == "vllm":
        found = _vllm_version(name, version)
        rules = max(change for change in vllm.CHANGES if change <= found)
        return Preset(name, vllm.flags(rules), partial(_fill_vllm, rules))
    if engine == "sglang" and re.fullmatch(r"0\.5(\.\w+)*", version):
        return Preset(name, SGLANG_FLAGS, sglang.fill)
    if engine == "trtllm" and re.fullmatch(r"1(\.\w+)*", version):
        return Preset(name, TRTLLM_FLAGS, trtllm.fill)
    raise ScenarioError(_unknown(name))


def _fill_vllm(version: vllm.Version, filler: Filler, model: ModelShape, device: Device) -> Filled:
    return vllm.fill(filler, version, model, device)


def _vllm_version(name: str, text: str) -> vllm.Version:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ScenarioError(_unknown(name))
    version = int(match[1]), int(match[2])
    if not vllm.OLDEST <= version <= vllm.NEWEST:
        oldest, newest = (".".join(map(str, one)) for one in (vllm.OLDEST, vllm.NEWEST))
        raise ScenarioError(f"unknown preset (got {name!r})\nhint: vllm@{oldest} to vllm@{newest} are known")
    return version


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, PRESETS, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown preset (got {name!r})\nhint: {guess}known: {', '.join(PRESETS)}, and versions between them"
