"""``--speculative-config`` in vLLM's words: checked, with defaults, as a `Speculation` of the engine's options.

What real drafts are accepted depends on the text, which is not simulated: acceptance is always drawn, by the rates
that vLLM's ``rejection_sample_method: synthetic`` takes, or by those of a publication, with a warning.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmsim.engine_options import EngineOptions, Speculation, cudagraph_sizes
from llmsim.errors import LlmsimError
from llmsim.hardware import Device
from llmsim.model import load_model
from llmsim.model.shape import ModelShape
from llmsim.performance.drafts import layer_of

Method = Literal["ngram", "draft_model", "eagle", "eagle3", "mtp"]
METHODS: tuple[Method, ...] = ("ngram", "draft_model", "eagle", "eagle3", "mtp")

_MODELLED = (
    "method", "model", "num_speculative_tokens", "draft_tensor_parallel_size", "prompt_lookup_max",
    "prompt_lookup_min", "rejection_sample_method", "synthetic_acceptance_rates", "synthetic_acceptance_length",
)  # fmt: skip
# Keys of vLLM's SpeculativeConfig that change what is not simulated; from memory of versions before 0.33.
_WITHOUT_EFFECT = (
    "quantization", "max_model_len", "revision", "code_revision", "enforce_eager", "disable_padded_drafter_batch",
    "use_local_argmax_reduction", "draft_load_config", "attention_backend", "parallel_drafting", "tokenizer",
)  # fmt: skip

# Conditional acceptance of one more draft, where none is given: rates are its powers.  All from memory of the papers.
_PUBLISHED: dict[str, tuple[float, str]] = {
    "draft_model": (0.65, "Leviathan et al. 2023, table 2: T5-small for T5-XXL, CNN/DailyMail, temperature 0"),
    "eagle": (0.70, "Li et al. 2024 (EAGLE), MT-bench, temperature 0, chains"),
    "eagle3": (0.80, "Li et al. 2025 (EAGLE-3), MT-bench, temperature 0"),
    "mtp": (0.85, "DeepSeek-V3 technical report, section 5.4.3: 85 to 90 % of second tokens"),
    "ngram": (0.20, "Leviathan et al. 2023, table 3: a bigram model for T5-XXL, EnDe; texts that repeat the prompt "
                    "do far better"),
}  # fmt: skip


@dataclass(slots=True)
class Found:
    """What a configuration comes to; ``problems`` are (flag, what is wrong)."""

    speculation: Speculation | None
    problems: list[tuple[str, str]]
    warnings: list[str]


class _WrongError(ValueError):
    """One thing that is wrong, with the flag or the key of the configuration."""

    def __init__(self, what: str, flag: str = "speculative_config") -> None:
        super().__init__(what)
        self.flag = flag


def read_speculation(given: Mapping[str, Any], target: ModelShape, options: EngineOptions) -> Found:
    """Return the speculation that the flags ``speculative_config`` and ``spec_*`` ask for; None without any.

    Args:
        given: what the user said, by flag.
        target: the model that verifies.
        options: of the engine, for its parallel sizes.
    """
    warnings: list[str] = []
    try:
        config = _config(given)
        if config is None:
            return Found(None, [], [])
        return Found(_read(config, target, options, warnings), [], warnings)
    except _WrongError as problem:
        return Found(None, [(problem.flag, str(problem))], warnings)


def with_speculation(
    options: EngineOptions, speculation: Speculation, given: Mapping[str, Any], device: Device
) -> EngineOptions:
    """Return ``options`` with drafts, and with what they change: graphs and asynchronous scheduling.

    Source: vLLM, ``VllmConfig`` and ``CompilationConfig.adjust_cudagraph_sizes_for_spec_decode``: graphs reach to
    twice the sequences times their tokens, in sizes of whole sequences.  Asynchronous scheduling goes with drafts
    that stay on the device, not with ngram.  From memory, but for the largest graph.
    """
    sizes = options.cudagraph_sizes
    if sizes:
        queries = 1 + speculation.tokens
        largest = max(sizes)
        if given.get("max_cudagraph_capture_size") is None and given.get("cudagraph_capture_sizes") is None:
            cap = 1024 if re.match(r"g?b[123]00", device.name) else 512
            largest = min(2 * options.max_num_seqs * queries, cap, options.max_num_batched_tokens)
            sizes = cudagraph_sizes(largest)
        whole = sorted({-(-size // queries) * queries for size in sizes})
        sizes = tuple(size for size in whole if size <= largest)
    ahead = options.async_scheduling and speculation.method != "ngram"
    return replace(options, speculation=speculation, cudagraph_sizes=sizes, async_scheduling=ahead)


# -- reading ------------------------------------------------------------------------------------------


def _config(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the mapping of keys to values, the short flags laid over it; None when nothing was said."""
    said = given.get("speculative_config")
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError:
            raise _WrongError(f"not a mapping in JSON or YAML (got {said!r})") from None
    if said is not None and not isinstance(said, Mapping):
        raise _WrongError(f"not a mapping of keys to values (got {said!r})")
    short = {"spec_method": "method", "spec_model": "model", "spec_tokens": "num_speculative_tokens"}
    laid = {key: given[flag] for flag, key in short.items() if given.get(flag) is not None}
    if not said and not laid:
        return None
    config = {key: value for key, value in {**(said or {}), **laid}.items() if value is not None}
    for key in config:
        if key not in _MODELLED and key not in _WITHOUT_EFFECT:
            close = difflib.get_close_matches(key, _MODELLED, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_MODELLED)}"
            raise _WrongError(f"unknown key (got {key!r})\nhint: {hint}")
    return config


def _read(config: dict[str, Any], target: ModelShape, options: EngineOptions, warnings: list[str]) -> Speculation:
    ignored = [key for key in config if key in _WITHOUT_EFFECT]
    if ignored:
        warnings.append(f"engine.speculative_config: {', '.join(ignored)}: not modelled")
    method = _method(config, target)
    if options.pipeline_parallel_size > 1:
        raise _WrongError("drafts are not modelled with pipeline_parallel_size above 1")
    tokens = _tokens(config, method, target)
    tensor = _draft_tensor(config, options.tensor_parallel_size)
    _check_lookup(config, method)
    rates = _rates(config, tokens)
    if rates is None:
        one, source = _PUBLISHED[method]
        rates = tuple(one**position for position in range(1, tokens + 1))
        warnings.append(
            f"engine.speculative_config: acceptance depends on the text; without synthetic_acceptance_rates each "
            f"further draft of {method} is accepted with probability {one:g} ({source})"
        )
    draft = _draft(config, method, target, tensor, warnings)
    if draft is not None and draft.max_model_len < options.max_model_len:
        warnings.append(
            f"engine.speculative_config: {draft.name} has a window of {draft.max_model_len} tokens, less than "
            f"max_model_len {options.max_model_len}: drafts are made behind it all the same"
        )
    return Speculation(method=method, tokens=tokens, rates=rates, draft=draft, draft_tensor=tensor)


def _method(config: Mapping[str, Any], target: ModelShape) -> Method:
    """Return the method, named or guessed from the draft's name as vLLM does it."""
    said, model = config.get("method"), config.get("model")
    if said is None:
        name = str(model or "").lower()
        if not name:
            raise _WrongError(f"method is missing\nhint: one of {', '.join(METHODS)}")
        said = "ngram" if name in ("ngram", "[ngram]") else "eagle3" if "eagle3" in name else (
            "eagle" if "eagle-" in name else "draft_model"
        )  # fmt: skip
    if isinstance(said, str) and said.endswith("_mtp"):
        said = "mtp"
    for method in METHODS:
        if said == method:
            if method == "mtp" and not target.mtp_layers:
                raise _WrongError(
                    f"method mtp: {target.name} has no multi-token-prediction layers\n"
                    "hint: num_nextn_predict_layers of its config.json says how many there are"
                )
            return method
    raise _WrongError(f"method is not modelled (got {said!r})\nhint: modelled are {', '.join(METHODS)} and *_mtp")


def _whole(config: Mapping[str, Any], key: str, least: int = 1) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise _WrongError(f"{key} is a whole number of at least {least} (got {value!r})")
    return int(value)


def _tokens(config: Mapping[str, Any], method: Method, target: ModelShape) -> int:
    tokens = _whole(config, "num_speculative_tokens")
    if tokens is None and method == "mtp":
        return target.mtp_layers
    if tokens is None:
        raise _WrongError("num_speculative_tokens is missing\nhint: the drafts of a sequence and step, such as 4")
    if method == "mtp" and tokens % target.mtp_layers:
        raise _WrongError(
            f"num_speculative_tokens is a multiple of the {target.mtp_layers} multi-token-prediction layers of "
            f"{target.name} (got {tokens})"
        )
    return tokens


def _draft_tensor(config: Mapping[str, Any], tensor: int) -> int:
    said = _whole(config, "draft_tensor_parallel_size")
    if said not in (None, 1, tensor):
        raise _WrongError(f"draft_tensor_parallel_size is 1 or tensor_parallel_size {tensor} (got {said})")
    return tensor if said is None else said


def _check_lookup(config: Mapping[str, Any], method: Method) -> None:
    most, least = _whole(config, "prompt_lookup_max"), _whole(config, "prompt_lookup_min")
    if method != "ngram" and (most is not None or least is not None):
        raise _WrongError(f"prompt_lookup_max and prompt_lookup_min go with method ngram (got {method})")
    if most is not None and least is not None and least > most:
        raise _WrongError(f"prompt_lookup_min {least} is above prompt_lookup_max {most}")


def _rates(config: Mapping[str, Any], tokens: int) -> tuple[float, ...] | None:
    """Return the unconditional acceptance rates by position, None when none were given."""
    given = config.get("synthetic_acceptance_rates")
    length = config.get("synthetic_acceptance_length")
    sampling = config.get("rejection_sample_method")
    if (given is not None or length is not None) and sampling != "synthetic":
        raise _WrongError(
            "synthetic_acceptance_rates and synthetic_acceptance_length go with rejection_sample_method synthetic "
            f"(got {sampling!r})"
        )
    if given is not None and length is not None:
        raise _WrongError("give synthetic_acceptance_rates or synthetic_acceptance_length, not both")
    if given is not None:
        return _checked(given, tokens)
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length <= tokens + 1:
        raise _WrongError(f"synthetic_acceptance_length lies between 1 and {tokens + 1} tokens a step (got {length!r})")
    one = _conditional(float(length), tokens)
    return tuple(one**position for position in range(1, tokens + 1))


def _checked(given: Any, tokens: int) -> tuple[float, ...]:
    key = "synthetic_acceptance_rates"
    if not isinstance(given, list | tuple) or len(given) != tokens:
        count = f"{len(given)}" if isinstance(given, list | tuple) else repr(given)
        raise _WrongError(f"{key} has one rate for each of the {tokens} num_speculative_tokens (got {count})")
    rates: list[float] = []
    for place, rate in enumerate(given):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise _WrongError(f"{key}: a rate lies between 0 and 1 (got {rate!r})")
        if place and rate > rates[-1]:
            raise _WrongError(
                f"{key} never rise: each is the probability that all drafts up to its position are accepted "
                f"(got {rates[-1]:g}, then {rate:g})"
            )
        rates.append(float(rate))
    return tuple(rates)


def _conditional(length: float, tokens: int) -> float:
    """Return the acceptance rate of one more draft with which a step yields ``length`` tokens on average.

    With the same rate ``a`` at each position that is ``1 + a + ... + a^k``; the rate is found by bisection.  How
    vLLM divides a length among positions was not looked up.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if sum(middle**position for position in range(tokens + 1)) < length:
            low = middle
        else:
            high = middle
    return high


def _draft(
    config: Mapping[str, Any], method: Method, target: ModelShape, tensor: int, warnings: list[str]
) -> ModelShape | None:
    """Return the shape of what makes the drafts; None for ngram."""
    model = config.get("model")
    if method == "ngram":
        return None
    if method != "draft_model":
        if model is not None and method != "mtp":
            warnings.append(
                f"engine.speculative_config: {model} is priced as one dense layer of {target.name} with its head"
            )
        return layer_of(target, method)
    if model is None:
        raise _WrongError("model is missing\nhint: method draft_model wants the name or the path of a smaller model")
    try:
        draft = load_model(model)
    except LlmsimError as error:
        raise _WrongError(str(error)) from None
    if draft.vocab_size != target.vocab_size:
        raise _WrongError(
            f"model {draft.name} has a vocabulary of {draft.vocab_size} tokens, {target.name} one of "
            f"{target.vocab_size}\nhint: a draft model speaks the target's vocabulary; take one of the same family"
        )
    heads = {layer.attention.heads for layer in draft.layers if layer.attention is not None}
    if any(count % tensor for count in heads):
        raise _WrongError(
            f"model {draft.name} with {min(heads)} attention heads cannot be cut over {tensor} devices\n"
            "hint: draft_tensor_parallel_size 1"
        )
    return draft
