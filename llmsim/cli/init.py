"""``llmsim init``: a scenario file to begin with."""

from pathlib import Path

import click

from llmsim.cli.console import common, console
from llmsim.errors import InputError

DEFAULT = "minimal"


@click.command()
@click.argument("template", default=DEFAULT)
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Where to; never over a file.")
@common
def init(template: str, output: str | None) -> None:
    """Print a commented scenario, to go into a file: llmsim init voice-assistant > mine.yaml.

    TEMPLATE is a name of `llmsim list scenarios`. Without one it is the least that a scenario says.
    """
    from llmsim import catalog
    from llmsim.schema.build import SCENARIOS

    text = catalog.find(SCENARIOS, template).read_text(encoding="utf-8")
    out = console()
    if output is None:
        if out.json:
            import json

            from llmsim.schema import load

            text = json.dumps(load(text).to_dict(), indent=2)
        out.result(text.rstrip("\n"))
        return
    try:
        with open(output, "x", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except FileExistsError:
        raise InputError(f"--output: there is such a file already (got {output!r})") from None
    except OSError as error:
        raise InputError(f"--output: cannot be written: {error.strerror or error} (got {output!r})") from None
    if Path(output).name == output:
        out.text(f"next: llmsim check {output}   |   llmsim simulate {output}")
    else:
        out.text(f"wrote {output}")
