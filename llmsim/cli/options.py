"""Options in sections, and those that the table of engine flags makes."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from llmsim.schema.flags import FLAGS, Flag
from llmsim.schema.other_flags import ALL_FLAGS, OTHER_SPELLINGS

_Command = TypeVar("_Command", bound=Callable[..., Any])

_JSON_FLAGS = {flag.option: flag for flag in ALL_FLAGS.values() if flag.kind == "json"}

# Where a command finds the words that it was called with.
WORDS = "llmsim.words"

GENERAL = "Options"
ENGINE = "Engine, as in `vllm serve` (its other flags are taken too, with a warning)"


class Option(click.Option):
    """An option that belongs to a section of the help page."""

    def __init__(self, *args: Any, section: str = GENERAL, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help page shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one block for each section, in the order in which sections first appear; general options last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", GENERAL), []).append(record)
        general = sections.pop(GENERAL, [])
        for title, records in [*sections.items(), (GENERAL, general)]:
            with formatter.section(title):
                formatter.write_dl(records)


class EngineCommand(SectionedCommand):
    """A command with engine flags; JSON flags may be written in parts: ``--speculative-config.method eagle``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the parts of each JSON flag before click sees them."""
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, joined(args))


def joined(args: Sequence[str]) -> list[str]:
    """Return ``args`` with all ``--flag.key value`` and ``--flag.key=value`` of a JSON flag as one ``--flag JSON``."""
    rest: list[str] = []
    parts: dict[str, dict[str, Any]] = {}
    words = iter(args)
    for word in words:
        head, dot, tail = word.partition(".")
        if not dot or _JSON_FLAGS.get(head) is None:
            rest.append(word)
            continue
        key, given, value = tail.partition("=")
        inner = parts.setdefault(head, {})
        *way, last = key.split(".")
        for step in way:
            inner = inner.setdefault(step, {})
        inner[last] = _json(value if given else next(words, ""))
    return [*rest, *(word for flag, value in parts.items() for word in (flag, json.dumps(value)))]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def add(options: Sequence[Callable[[_Command], _Command]]) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a command all ``options``, in their order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def option(*names: str, section: str, **kwargs: Any) -> Callable[[_Command], _Command]:
    """Return an option of ``section``; click's own arguments otherwise."""
    return click.option(*names, cls=Option, section=section, **kwargs)


def engine_options() -> list[Callable[[Any], Any]]:
    """Return one option for each engine flag; those not modelled, and other engines', are taken but hidden."""
    spellings = [
        option(name, f"--{name.replace('_', '-')}", section=ENGINE, default=None, hidden=True,
               **({"is_flag": True} if is_switch else {}))
        for name, is_switch in OTHER_SPELLINGS.items()
    ]  # fmt: skip
    return [*(_engine_option(flag) for flag in ALL_FLAGS.values()), *spellings]


def _engine_option(flag: Flag) -> Callable[[Any], Any]:
    spellings = [flag.option, *("--" + alias.replace("_", "-") for alias in flag.aliases)]
    spellings += [flag.short] if flag.short else []
    hidden = flag.status != "modelled" or flag.name not in FLAGS
    if flag.kind == "bool":
        spellings = [f"{flag.option}/--no-{flag.option.removeprefix('--')}", *spellings[1:]]
        return option(flag.name, *spellings, section=ENGINE, default=None, help=_help(flag), hidden=hidden)
    # The schema checks the values of a file and of the command line alike, so here they stay texts.
    return option(
        flag.name, *spellings, section=ENGINE, default=None, metavar=_metavar(flag), help=_help(flag), hidden=hidden
    )


def _metavar(flag: Flag) -> str:
    if flag.choices:
        return "|".join(flag.choices) if len(flag.choices) <= 3 else "NAME"
    return {"int": "N", "float": "X", "text": "TEXT", "json": "JSON", "sizes": "[N,N,...]"}[flag.kind]


def _help(flag: Flag) -> str:
    shown = {True: "on", False: "off"}.get(flag.default, flag.default) if flag.kind == "bool" else flag.default
    text = flag.help[:1].upper() + flag.help[1:]
    return f"{text} [{shown}]" if shown is not None and "default" not in flag.help else text


def without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return ``words`` without some options and their values."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
            continue
        name, given, _ = word.partition("=")
        if name in options:
            skip = not given
            continue
        kept.append(word)
    return kept


def said_of(options: Mapping[str, Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    """Return the options of the current command that somebody gave, without those in ``leave``.

    A switch that was turned off (``--no-enable-prefix-caching``) was given; one that is off by default was not.
    """
    context = click.get_current_context()
    unsaid = (None, click.core.ParameterSource.DEFAULT)
    return {
        name: value
        for name, value in options.items()
        if name not in leave
        and (value not in (None, (), False) or (value is False and context.get_parameter_source(name) not in unsaid))
    }
