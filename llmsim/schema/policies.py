"""The scheduler of a scenario: which class, with which settings, and where each of them came from."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmsim.errors import LlmsimError, ScenarioError
from llmsim.schema import plugins
from llmsim.schema.document import Scenario
from llmsim.schema.findings import Findings
from llmsim.schema.settings import signature_of

ALIASES = {"vllm": "continuous", "continuous_batching": "continuous", "static_batching": "static"}
# Schedulers that never look into the cache.
_WITHOUT_CACHE = ("static", "orca", "sarathi")
_VALUE = re.compile(r"(scheduler|engine)\.(\w+): ")
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


@dataclass(frozen=True, slots=True)
class SchedulerChoice:
    """A scheduler to be made as ``maker(options, pool, **arguments)``.

    ``settings`` are all settings that can be written down, defaults included, and ``origins`` says of each
    where its value came from; ``arguments`` are those that the class is given.  ``own``: it is not what the preset has.
    """

    name: str
    maker: Callable[..., Any]
    arguments: dict[str, Any]
    settings: dict[str, Any]
    origins: dict[str, str]
    takes: tuple[str, ...]
    warnings: list[str]
    scenario: Scenario
    own: bool = False

    def make(self, options: Any, pool: Any, *, leap: bool, seed: int) -> Any:
        """Return a scheduler over ``pool``; ``leap`` and ``seed`` go to a class that takes them."""
        own = {"leap": leap, "seed": seed}
        try:
            return self.maker(options, pool, **self.arguments, **{name: own[name] for name in self.takes})
        except LlmsimError as error:
            raise type(error)(_placed(str(error), self.scenario)) from None


def choose_scheduler(
    scenario: Scenario, default: str, preset: Mapping[str, tuple[Any, str]], findings: Findings, *, given: Any = None
) -> SchedulerChoice | None:
    """Return the scheduler of ``scenario``, or None after noting in ``findings`` what is wrong.

    Args:
        scenario: says name and settings; what it leaves out, the preset decides.
        default: the name that holds without one.
        preset: settings of the scheduler ``default``, each with its origin.
        findings: takes what is wrong.
        given: the class itself, when it came as an object; then the scenario's name is only a label.
    """
    section = scenario.scheduler
    name = ALIASES.get(section.name or default, section.name or default)
    key = ("scheduler", "name") if scenario.gives("scheduler", "name") else ("scheduler",)
    maker = given if given is not None else _maker(name, key, findings)
    if maker is None:
        return None
    signature = signature_of(maker)
    said = dict(section.model_extra or {})
    fixed = {one: value for one, (value, _) in preset.items() if name == default and signature.knows(one)}
    read, problems = signature.check(fixed | {one: value for one, value in said.items() if value is not None})
    for setting, what in problems:
        findings.add(("scheduler", setting) if setting else key, what)
    origins = {"scheduler": "user" if section.name else f"preset {scenario.engine.preset}"}
    settings: dict[str, Any] = {}
    for setting in dict.fromkeys((*signature.settings, *read)):
        if setting in read:
            settings[setting] = read[setting]
            origins[f"scheduler.{setting}"] = "user" if said.get(setting) is not None else preset[setting][1]
        elif isinstance(signature.settings[setting].default, _PLAIN):
            settings[setting] = signature.settings[setting].default
            origins[f"scheduler.{setting}"] = f"default of {name}"
    # Saying what holds anyway, as scenario.resolved.yaml does, is no choice of one's own.
    usual = {one: fixed.get(one, setting.default) for one, setting in signature.settings.items()}
    own = name != ALIASES.get(default, default) or any(settings.get(one) != usual.get(one) for one in said)
    warnings = []
    flags = scenario.engine.model_dump(exclude_unset=True)
    if name in _WITHOUT_CACHE and flags.get("enable_prefix_caching"):
        warnings.append(f"engine.enable_prefix_caching: ignored, scheduler {name} computes every prompt token")
    unread = [flag for flag, (_, origin) in preset.items() if origin.startswith("engine.") and flag not in fixed]
    warnings += [f"engine.{flag}: ignored, scheduler {name} does not read it" for flag in unread]
    return SchedulerChoice(name, maker, read, settings, origins, signature.takes, warnings, scenario, own)


def _placed(message: str, scenario: Scenario) -> str:
    """Return what a scheduler says of one of its values, with the place where the user gave it."""
    match = _VALUE.match(message)
    return f"{scenario.where(match[1], match[2])}: {message[match.end() :]}" if match else message


def _maker(name: str, key: tuple[str, ...], findings: Findings) -> Any:
    from llmsim.schedulers import SCHEDULERS

    if name in SCHEDULERS:
        return SCHEDULERS[name]
    return named_or_own(name, list(SCHEDULERS), key, findings)


def with_drafts(choice: SchedulerChoice, findings: Findings) -> SchedulerChoice:
    """Return the scheduler that decides as ``choice`` and verifies drafts: there is one for ``continuous`` alone."""
    from llmsim.schedulers.speculative import SpeculativeBatching

    if choice.name != "continuous":
        what = f"drafts are modelled with scheduler continuous only (got {choice.name})"
        findings.add(("engine", "speculative_config"), f"{what}\nhint: leave the scheduler out, or the drafts")
        return choice
    return replace(choice, maker=SpeculativeBatching, takes=("leap", "seed"))


def named_or_own(name: str, known: list[str], key: tuple[str, ...], findings: Findings) -> Any:
    """Return the user's own object when ``name`` is a ``module:Name``; note a name that is not ``known``."""
    if ":" in name:
        return findings.attempt(key, plugins.find, name)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}, or package.module:Name"
        findings.add(key, f"unknown name (got {name!r})\nhint: {hint}")
    return None


def label_of(maker: Any) -> str:
    """Return ``module:Name`` of a class or function."""
    while isinstance(maker, partial):
        maker = maker.func
    name = getattr(maker, "__qualname__", None) or type(maker).__qualname__
    return f"{getattr(maker, '__module__', None) or type(maker).__module__}:{name}"


def is_found(maker: Any) -> bool:
    """Say whether ``module:Name`` finds ``maker`` again, so that a file can name it."""
    try:
        return plugins.find(label_of(maker)) is maker
    except ScenarioError:
        return False


def with_scheduler(scenario: Scenario, maker: Any) -> Scenario:
    """Return ``scenario`` with the name of ``maker`` as its scheduler, in place of any other and its settings.

    The name is ``module:Name``, whether or not that finds the class again, so that the scenario's hash and files
    tell which scheduler ran.  Keywords of a `functools.partial` become settings.

    Raises:
        ScenarioError: ``maker`` is no class and no function.
    """
    if not callable(maker):
        raise ScenarioError(f"scheduler: not a class (got {maker!r})\nhint: simulate(scenario, scheduler=MyClass)")
    settings: dict[str, Any] = {}
    inner = maker
    while isinstance(inner, partial):
        settings = {**inner.keywords, **settings}
        inner = inner.func
    plain = {name: value for name, value in settings.items() if isinstance(value, _PLAIN)}
    return scenario.with_({"scheduler": {"name": label_of(maker), **plain}})
