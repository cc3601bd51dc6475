"""What a software stack costs beside its kernels: a few numbers for each stack, shared by all devices and models.

The kernels' constants are fitted to kernels that were measured alone.  What a stack adds (the host between two steps,
gaps between kernels, kernels older or newer than the measured ones) is told by at most six numbers of its own in
``hardware/performance/stacks.yaml``, by engine and major version or year.  A stack without numbers of its own takes
those of its nearest relative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from llmsim import catalog
from llmsim.errors import CatalogError

FOLDER = "hardware/performance"
MOST_FREE_NUMBERS = 6


@dataclass(frozen=True, slots=True)
class Unfused:
    """What a stack does in kernels of its own that others do in one: read in its source, not fitted.

    ``scores``: how often the matrix of attention's scores is written or read in a prompt; ``elements``: how many
    hidden vectors each token of a layer has written or read beside its norms and activations (biases, residuals,
    transpositions).  Encoders of 16 bit and less with heads of ``fused_heads`` elements have attention in one kernel.
    """

    scores: float
    elements: float = 0.0
    fused_heads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StackCorrection:
    """The numbers of one stack.

    ``step_us``, ``layer_us`` and ``sequence_us`` are host microseconds a step, a step and layer, and a step and
    sequence; None: what the tables of the device and the stack say (`HostWork`).  The others are factors: on the
    launches of kernels, on the matrix products and element-wise kernels, on attention, on what devices say to
    each other; on all time that compute bounds, experts' apart, and on all that memory bounds, of products and
    attention alike.
    ``experts`` is a factor on what each row costs that is routed to an expert of a mixture (not on the padding of
    experts with few rows, nor on reading weights), ``unpacking`` one more where weights are unpacked to 16 bit.
    ``request_us`` are microseconds that a request spends with client, HTTP and front end beside its tokenizing; none
    where requests go straight into the engine.

    ``unfused`` is no number but a property of the stack's kernels.  Where a stack has it, ``layer_us`` is the host's
    time for the launches of a plain decoder layer, and layers of other kinds count by their launches.  ``shares`` is
    another: how many query heads a KV head must have for decode attention to read it once; None: any number
    (`llmsim.performance.masked_attention`).
    """

    step_us: float | None = None
    layer_us: float | None = None
    sequence_us: float | None = None
    launch: float = 1.0
    products: float = 1.0
    attention: float = 1.0
    communication: float = 1.0
    compute: float = 1.0
    memory: float = 1.0
    request_us: float = 0.0
    experts: float = 1.0
    unpacking: float = 1.0
    unfused: Unfused | None = None
    shares: tuple[int, ...] | None = None

    @property
    def free_numbers(self) -> int:
        """How many of the numbers differ from what is priced without a correction."""
        plain = StackCorrection()
        return sum(getattr(self, name) != getattr(plain, name) for name in numbers_known())


@dataclass(frozen=True, slots=True)
class Stack:
    """A software stack: engine and major version or year.

    ``kernels`` names the fitted tables that price it (vllm, trtllm, sglang or vllm-2023), ``like`` the relative whose
    numbers it takes (itself when it has its own), ``own`` whether it has numbers of its own.  ``constants`` names what
    was chosen in the formulas of its kernels with measured results in view: no number here, but free all the same.
    """

    name: str
    kernels: str
    correction: StackCorrection
    like: str
    own: bool
    source: str = ""
    constants: tuple[str, ...] = ()


NEUTRAL = StackCorrection()
PROPERTIES = ("unfused", "shares")  # fields that are no numbers


def numbers_known() -> list[str]:
    """Return the names of all numbers that a stack may have."""
    return [field.name for field in fields(StackCorrection) if field.name not in PROPERTIES]


def stack_names() -> list[str]:
    """Return the names of all stacks in ``stacks.yaml``."""
    return list(_entries())


def stack_of(name: str, overrides: Mapping[str, StackCorrection] | None = None) -> Stack:
    """Return a stack by its name, such as ``vllm@2024``.

    ``overrides`` are numbers by stack that replace those of the file, for fits; a relative's hold for all that
    borrow from it.

    Raises:
        CatalogError: there is no such stack, or the file is wrong.
    """
    entries, chain = _entries(), relatives(name)
    entry = entries[name]
    like = next((one for one in chain if entries[one].get("numbers")), chain[-1])
    correction = _correction(like, entries[like].get("numbers") or {})
    if overrides is not None:
        like = next((one for one in chain if one in overrides), like)
        correction = overrides.get(like, correction)
    correction = replace(correction, unfused=_unfused(chain), shares=_shares(chain))
    constants = tuple(entry.get("constants") or ())
    own = bool(entry.get("numbers"))
    return Stack(name, str(entry["kernels"]), correction, like, own, str(entry.get("source", "")), constants)


def own_numbers(name: str) -> tuple[str, ...]:
    """Return the names of the numbers that are free in a stack: those that its entry lists."""
    return tuple(_entries().get(name, {}).get("numbers") or ())


def relatives(name: str) -> list[str]:
    """Return a stack, its nearest relative, that one's, and so on.

    Raises:
        CatalogError: there is no such stack, or the relatives form a circle.
    """
    entries = _entries()
    if name not in entries:
        raise CatalogError(f"{FOLDER}/stacks.yaml: no stack {name!r}\nhint: known: {', '.join(entries)}")
    chain = [name]
    while like := entries[chain[-1]].get("like"):
        if like not in entries or like in chain:
            raise CatalogError(f"{FOLDER}/stacks.yaml: {chain[-1]}: like: no such stack, or a circle (got {like!r})")
        chain.append(str(like))
    return chain


def correction_of(name: str) -> StackCorrection:
    """Return the numbers of the stack with which a preset (``vllm@0.19``) is priced; neutral ones for unknown stacks.

    A preset takes the stack of its version, else the latest one before it.
    """
    entries = _entries()
    if name in entries:
        return stack_of(name).correction
    engine, _, version = name.partition("@")
    known = [one for one in entries if one.startswith(f"{engine}@") and _number(one) is not None]
    wanted = _number(name)
    older = [one for one in known if wanted is not None and (_number(one) or ()) <= wanted]
    if version and older:
        return stack_of(max(older, key=lambda one: _number(one) or ())).correction
    return NEUTRAL


def with_numbers(correction: StackCorrection, numbers: Mapping[str, Any]) -> StackCorrection:
    """Return a copy with other numbers, by name.

    Raises:
        CatalogError: there is no such number, it is not a number, or there are more than six.
    """
    made = _correction("numbers", {**_told(correction), **numbers})
    return replace(made, unfused=correction.unfused, shares=correction.shares)


def _told(correction: StackCorrection) -> dict[str, Any]:
    return {name: getattr(correction, name) for name in numbers_known()}


def _unfused(chain: list[str]) -> Unfused | None:
    """Return what the nearest of some relatives does in kernels of its own."""
    entries = _entries()
    said = next((entries[name]["unfused"] for name in chain if entries[name].get("unfused")), None)
    if said is None:
        return None
    where = f"{FOLDER}/stacks.yaml: {chain[0]}: unfused"
    unknown = set(said) - {field.name for field in fields(Unfused)}
    if unknown or "scores" not in said:
        raise CatalogError(f"{where}: scores, elements and fused_heads (got {', '.join(said)})")
    return Unfused(float(said["scores"]), float(said.get("elements", 0.0)), tuple(said.get("fused_heads", ())))


def _shares(chain: list[str]) -> tuple[int, ...] | None:
    """Return which groups of query heads the nearest of some relatives decodes by reading a KV head once."""
    entries = _entries()
    said = next((entries[name]["shares"] for name in chain if "shares" in entries[name]), None)
    if said is None:
        return None
    if not isinstance(said, list) or not all(isinstance(size, int) and size > 0 for size in said):
        raise CatalogError(f"{FOLDER}/stacks.yaml: {chain[0]}: shares: must be a list of whole numbers (got {said!r})")
    return tuple(said)


def _correction(name: str, numbers: Mapping[str, Any]) -> StackCorrection:
    known = numbers_known()
    for key, value in numbers.items():
        where = f"{FOLDER}/stacks.yaml: {name}: {key}"
        if key not in known:
            raise CatalogError(f"{where}: no such number (known: {', '.join(known)})")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise CatalogError(f"{where}: must be a number of at least 0 (got {value!r})")
    read: dict[str, Any] = {key: None if value is None else float(value) for key, value in numbers.items()}
    made = replace(NEUTRAL, **read)
    if made.free_numbers > MOST_FREE_NUMBERS:
        raise CatalogError(
            f"{FOLDER}/stacks.yaml: {name}: at most {MOST_FREE_NUMBERS} numbers may be free (got {made.free_numbers})"
        )
    return made


def _number(name: str) -> tuple[int, ...] | None:
    """Return the version in a name as numbers, ``vllm@0.19`` as (0, 19); None where it is a year or none."""
    parts = name.partition("@")[2].split(".")
    if not all(part.isdigit() for part in parts) or (len(parts) == 1 and len(parts[0]) == 4):
        return None
    return tuple(int(part) for part in parts)


@cache
def _entries() -> dict[str, dict[str, Any]]:
    """Return the entries of the file.  Read once: they are constants."""
    import yaml

    path = catalog.find(FOLDER, "stacks")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("stacks"), dict):
        raise CatalogError(f"{FOLDER}/stacks.yaml: not a mapping with stacks")
    return dict(content["stacks"])
