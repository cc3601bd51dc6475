"""Names that people write for devices and models, found in the catalogue."""

import re
from functools import cache
from math import log

from llmsim import catalog
from llmsim.errors import CatalogError, ModelError
from llmsim.hardware import Device, load_device
from llmsim.model import load_model, model_names
from llmsim.model.shape import ModelShape
from llmsim.model.weights import parameters

# Words of a catalogue name that a person may leave out: the usual form of a card, and the brand.
_OPTIONAL = frozenset({"sxm", "rtx", "rx", "radeon", "jetson"})
# Words that make another product of a name, wherever they stand: a candidate without them is not what is meant.
_TELLING = frozenset({
    "nvl", "laptop", "mobile", "super", "ti", "ada", "pro", "max", "ultra", "maxq", "xt", "xtx", "gre", "mini", "nano",
    "nx",
})  # fmt: skip
_MEMORY = re.compile(r"(?<![a-z\d.])(\d+)\s?(?:gb|gib|g)\b")
# How far a memory size in a name may be from the data sheet's: 141 for 144, 180 for 192.
_MEMORY_SLACK = 0.10
# Spellings of device names, rewritten before their words are compared.
_DEVICE_SPELLINGS = tuple((re.compile(pattern), new) for pattern, new in (
    (r"\(r\)|\(tm\)|\u2122|\u00ae", " "),
    (r"\b\d{1,2}\s?[x\u00d7*]\s?(?=[a-z\d])", " "),  # how many
    (r"\bgh200[ -]480gb\b", "gh200"),  # the driver's name, which counts Grace's memory
    (r"\bh100 80gb hbm3\b", "h100 sxm 80gb"),  # the driver's name of the SXM form
    (r"\b(rtx|gtx|rx|gaudi|arc|quadro)(?=a?\d)", r"\1 "),
    (r"\ba6000 ada\b", "6000 ada"),
    (r"(?<=\d)(ti|super|xtx|xt)\b", r" \1"),
    (r"(?<=\d)[ -]?sxm\d?\b|\bsxm\d\b", " sxm"),
    (r"\bddr\d[ -]?\d+|\bmacbook (pro|air)\b|\bmac (mini|studio)\b", " "),
    (r"max-?q\b", "maxq"),
    (r"\b(m\d)[ -]?(pro|max|ultra)\b", r"\1 \2"),
    (r"(?<=\d)[ -]?cores?\b", " core"),
    (r"\btpu[ -]?(?=v?\d)v?", "tpu v"),
    (r"\bv(\d)[ -]?lite(pod)?\b", r"v\1e"),
    (r"(?<!tpu )\bv(5e|5p|6e)\b", r"tpu v\1"),
    (r"\b910b\d\b", "910b"),
    # Instances of clouds, by the device that they hold.
    (r"\bg4dn\b", "t4"), (r"\bg5\b", "a10g"), (r"\bg6\b", "l4"), (r"\bg6e\b", "l40s"),
    (r"\bp3\b", "v100 16gb"), (r"\bp3dn\b", "v100 32gb"), (r"\bp4d\b", "a100 40gb"), (r"\bp4de\b", "a100 80gb"),
    (r"\bp5\b", "h100"), (r"\bp5en?\b", "h200"), (r"\bg2-standard\b", "l4"), (r"\ba2-highgpu\b", "a100 40gb"),
    (r"\ba2-ultragpu\b", "a100 80gb"), (r"\ba3-(high|mega)gpu\b", "h100"), (r"\ba3-ultragpu\b", "h200"),
))  # fmt: skip

# Spellings of model names, rewritten one after the other before they are looked up.
_SPELLINGS = tuple((re.compile(pattern), new) for pattern, new in (
    (r"\(.*?\)", ""),  # explanations
    (r"v3/r1$", "v3"),
    (r"^.*/", ""),
    (r"[\s_:]+", "-"),
    (r"^-+|-+$", ""),
    (r"\.gguf$", ""),
    (r"\.(?=i?q\d)", "-"),
    (r"^meta-", ""),
    # How it was trained, or which benchmark it belongs to, changes nothing of the shape.
    (r"-(?:interactive|server|offline)?-?99(\.9+)?$", ""),  # MLPerf's share of the reference accuracy
    (r"-(preview|1m|hf)$", ""),
    (r"-(instruct|thinking|chat|it|base)-?\d{4}\b", ""),
    (r"^(?!mistral|mixtral)(.*)-(chat|instruct|base)-v[\d.]+\b", r"\1"),
    (r"^(mixtral-8x\d+b)-instruct-v0\.1", r"\1"),
    (r"^llama-?v?(\d(?:\.\d)?)(?=-|$)", r"llama-\1"),
    (r"^llama-1-(?=\d)", "llama-"),
    (r"^llama-33b", "llama-30b"),
    (r"^(llama-4-(?:scout|maverick))-17b-\d+e", r"\1"),
    (r"^llama-3\.1-nemotron-(?=70b)", "llama-3.1-"),
    (r"^(vicuna|koala|wizardlm|alpaca|stable-vicuna)-(\d+b)-v1\.[0-3]\b", r"llama-\2"),
    (r"^(vicuna|wizardlm)-33b", "llama-30b"),
    (r"^alpaca-", "llama-"),
    (r"^(vicuna|wizardlm)-(7b|13b|70b)(-v[\d.]+)?", r"llama-2-\2"),
    (r"^open-?llama-(7b|13b)(-v2)?", r"llama-\1"),
    (r"^zephyr-7b(-(alpha|beta))?$", "mistral-7b-v0.1"),
    (r"^code-llama", "codellama"),
    (r"^mistral-small-3(\.\d)?-24b", "mistral-small-24b"),
    (r"^mistral-nemo(-12b)?", "mistral-nemo-12b"),
    (r"^qwen-(\d(?:\.\d)?)(?=-\d)", r"qwen\1"),
    (r"^qwen2(\.5)?-(?:coder|math)-(?=\d)", r"qwen2\1-"),
    (r"^qwen2-(0\.5b|1\.5b)", r"qwen2.5-\1"),  # of the same shapes
    (r"^qwen3-coder-(?=30b)", "qwen3-"),
    (r"^qwq-32b", "qwen2.5-32b"),
    (r"^gemma(\d)-", r"gemma-\1-"),
    (r"^phi-?(\d)", r"phi-\1"),
    (r"^phi-3\.5-mini", "phi-3-mini-128k"),
    (r"^bloomz", "bloom"),
    (r"^yi-(1\.5-)?34b(-200k)?", "yi-34b"),
    (r"^internlm2\.5", "internlm2"),
    (r"^deepseek-r1-distill-llama-8b", "llama-3.1-8b"),
    (r"^deepseek-r1-distill-llama-70b", "llama-3.3-70b"),
    (r"^deepseek-r1-distill-qwen-", "qwen2.5-"),
    (r"^deepseek-r1-0528-qwen3-8b", "qwen3-8b"),
    (r"^deepseek-r1(-0528|-671b)+(?!-)", "deepseek-r1"),
    (r"^deepseek-r1(-0528|-671b)+(?=-(nv)?fp|$)", "deepseek-r1"),
    (r"^deepseek-v3-671b", "deepseek-v3"),
    (r"^deepseek-v2\.5|^deepseek-coder-v2(?!-lite)", "deepseek-v2"),
    (r"^deepseek-coder-v2-lite", "deepseek-v2-lite"),
    (r"^gpt-?j(-6b)?$", "gpt-j-6b"),
    (r"^gpt-?neox(-20b)?$", "gpt-neox-20b"),
    (r"^gpt-3$", "gpt-3-175b"),
    (r"^gpt-2(?=-|$)", "gpt2"),
    (r"^gpt2-(124m|117m|small)$", "gpt2"),
    (r"^gpt2-(345m|355m)$", "gpt2-medium"),
    (r"^gpt2-774m$", "gpt2-large"),
    (r"^gpt2-1\.5b$", "gpt2-xl"),
    (r"^bert$|^bert-large-squad$", "bert-large"),  # MLPerf's
    (r"^(distilbert|roberta|xlm-roberta)$", r"\1-base"),
    (r"^kimi-k2.*", "kimi-k2"),
    (r"^jamba-1\.5-mini", "jamba-v0.1"),
    (r"^granite-3\.\d-", "granite-3-"),
    (r"-deduped$", ""),
    (r"-+$", ""),
))  # fmt: skip


@cache
def devices() -> dict[str, Device]:
    """Return every device of the catalogue by its name."""
    return {name: load_device(name) for name in catalog.names("hardware/devices")}


@cache
def device_named(*texts: str) -> Device:
    """Return the catalogue's device that one of ``texts``, tried in order, names.

    Where the first does not tell the memory, the others may: ``V100`` and ``V100-16GB``.

    All words of the catalogue's name must stand in the text, the usual form of a card apart; a memory size in the
    text must be the device's, and so must words that tell products apart, such as "Ti", "NVL" or "PCIe".

    Raises:
        CatalogError: none does.
    """
    for text in texts:
        found = _device(text)
        if found is None:
            continue
        fuller = None if _MEMORY.search(_plain(text)) else _device(" ".join(texts))
        return fuller if fuller is not None and _chip(fuller) == _chip(found) else found
    raise CatalogError(f"unknown device (got {texts[0]!r})")


def _chip(device: Device) -> str:
    return device.name.split("-")[0]


def _plain(text: str) -> str:
    said = text.lower()
    for pattern, new in _DEVICE_SPELLINGS:
        said = pattern.sub(new, said)
    return said


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", _plain(text)))


@cache
def _spellings() -> tuple[tuple[str, frozenset[str]], ...]:
    """Return every name and alias of every device with its words."""
    return tuple((name, _words(said)) for name, device in devices().items() for said in (name, *device.aliases))


def _device(text: str) -> Device | None:
    words = _words(text)
    sizes = [int(size) for size in _MEMORY.findall(_plain(text))]
    ranked = []
    for name, wanted in _spellings():
        missing = wanted - words - _OPTIONAL
        if missing or not (wanted & words) - _OPTIONAL or not _may_be(devices()[name], wanted, words, sizes):
            continue
        ranked.append((len(wanted & words), -len(wanted - words), name))
    if not ranked:
        return None
    ranked.sort(reverse=True)
    best = [name for found, missing, name in ranked if (found, missing) == ranked[0][:2]]
    # Two cards of one name that differ in memory only are not told apart.
    return devices()[best[0]] if len(set(best)) == 1 else None


def _may_be(device: Device, wanted: frozenset[str], words: frozenset[str], sizes: list[int]) -> bool:
    """Say whether nothing in a text's ``words`` and memory ``sizes`` speaks against a device spelt ``wanted``."""
    own = wanted | _words(device.name)
    if words & _TELLING - own:
        return False
    # A form is told where there are two: a card that has only one may be called by either.
    if ("pcie" in words and "sxm" in own) or ("sxm" in words and "pcie" in own):
        return False
    if device.kind == "cpu":
        numbers = {word for word in words if re.fullmatch(r"\d{4,5}[a-z]{0,2}", word)}
        return "gpu" not in words and not numbers - own
    if "cpu" in words and "gpu" not in words:
        return False
    if not sizes or device.kind != "gpu" or device.maker == "Apple":
        return True  # chips of one name come with several sizes of shared memory
    return any(_same_size(size, device) or f"{size}gb" in wanted for size in sizes)


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
        for name in dict.fromkeys((text, _rewritten(text))):
            try:
                return load_model(name)
            except ModelError as error:
                first = first or error
    assert first is not None
    raise ModelError(f"unknown model (got {texts[0]!r})" if "unknown" in str(first) else str(first).splitlines()[0])


def _rewritten(text: str) -> str:
    name = text.lower().strip()
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name).strip()
    return name


# ---------------------------------------------------------------------- models that are not in the catalogue

# A model whose size lies within this factor of one of its family may borrow that one's shape.
_NEAR = 1.2
_SIZE = re.compile(r"(?<![\da-z.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z\d])")
# Sizes of these tell neither how many experts there are nor how many a token visits, or their layers are of many kinds.
_MIXED = re.compile(r"moe|\dn\b|\d+x\d|a\d+(\.\d+)?b|scout|maverick|mamba|hybrid|-h1?-|vl\b|vision|next")


@cache
def model_like(*texts: str) -> ModelShape | None:
    """Return the dense model of the same family that is nearest in size to an unknown one; None when none is near.

    It stands for a model that the catalogue lacks, and is never more than an approximation: layers, heads and
    vocabulary may differ.  A family is the name up to its size, or up to its version when no size follows that.
    """
    for text in texts:
        name = _rewritten(text)
        size = _SIZE.search(name.replace("-", " "))
        if size is None or _MIXED.search(name):
            continue
        wanted = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
        found = [
            (abs(log(count / wanted)), other) for other, count in _dense_sizes().items()
            if _family(other) == _family(name) and 1 / _NEAR < count / wanted < _NEAR
        ]  # fmt: skip
        if found:
            return load_model(min(found)[1])
    return None


def _family(name: str) -> str:
    """Return the letters that a name begins with: ``qwen`` of ``qwen2.5-7b``."""
    match = re.match(r"[a-z]+(?:-(?!\d)[a-z]+(?=-\d))?", name)
    return match[0] if match else name


@cache
def _dense_sizes() -> dict[str, float]:
    """Return the parameters of the catalogue's decoders without experts and recurrent layers."""
    sizes = {}
    for name in model_names():
        shape = load_model(name)
        plain = all(
            layer.attention is not None and layer.feed_forward is not None and not layer.feed_forward.experts
            and layer.recurrent is None and layer.cross is None
            for layer in shape.layers
        )  # fmt: skip
        if plain and not shape.encoder_only:
            sizes[name] = float(parameters(shape))
    return sizes
