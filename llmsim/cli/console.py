"""What goes to which stream: results to stdout, everything else to stderr, and with --json only JSON to stdout."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Console:
    """The streams of one call of the command line, and how much they say."""

    quiet: bool = False
    verbose: int = 0
    json: bool = False
    color: bool | None = None

    def result(self, text: str) -> None:
        """Print what was asked for, to stdout."""
        click.echo(text, color=self.color)

    def text(self, text: str = "") -> None:
        """Print a line for people: to stdout, or to stderr when stdout is for a machine; nothing when quiet."""
        if not self.quiet:
            click.echo(text, err=self.json, color=self.color)

    def note(self, text: str, *, fg: str | None = None) -> None:
        """Print a line beside the result, to stderr; nothing when quiet."""
        if not self.quiet:
            click.secho(text, err=True, fg=fg, color=self.color)

    def warn(self, text: str) -> None:
        """Print a warning to stderr; nothing when quiet."""
        self.note(f"warning: {text}", fg="yellow")

    def warnings(self, texts: Iterable[str]) -> None:
        """Print warnings to stderr; what is said of several things alike is said once, of all of them."""
        alike: dict[str, list[str]] = {}
        for text in texts:
            subject, _, said = text.partition(": ignored, it ")
            alike.setdefault(f"ignored, it {said}" if said else text, []).append(subject)
        for said, subjects in alike.items():
            if not said.startswith("ignored, it "):
                self.warn(said)
            elif len(subjects) == 1:
                self.warn(f"{subjects[0]}: {said}")
            else:
                self.warn(f"{', '.join(subjects)}: {said.replace('it does', 'they do')}")

    def error(self, message: str) -> None:
        """Print each line of an error to stderr, whatever was asked for."""
        for line in message.splitlines() or ["unknown"]:
            hint = line.startswith("hint: ")
            click.secho("" if hint else "error: ", err=True, fg="red", nl=False, color=self.color)
            click.secho(line, err=True, color=self.color)


def console() -> Console:
    """Return the console of the current call."""
    color = False if os.environ.get("NO_COLOR") else None
    made: Console = click.get_current_context().meta.setdefault("llmsim.console", Console(color=color))
    return made


def common(command: _Command) -> _Command:
    """Give a command the options that all have: --json, -q, -v, --no-color."""
    options = [
        click.option("--json", is_flag=True, help="JSON on stdout, everything else on stderr.", **_sets("json")),
        click.option("-q", "--quiet", is_flag=True, help="Print the result only.", **_sets("quiet")),
        click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks.", **_sets("verbose")),
        click.option("--no-color", is_flag=True, help="No colours (also NO_COLOR=1).", **_sets("color")),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _sets(name: str) -> dict[str, Any]:
    def store(_: click.Context, __: click.Parameter, value: Any) -> None:
        if value:
            setattr(console(), name, False if name == "color" else value)

    return {"expose_value": False, "callback": store}
