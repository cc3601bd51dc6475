"""The ``llmsim`` command itself: which sub-commands there are, and how errors become messages and exit codes.

A sub-command's module is imported when it is called, so ``llmsim --help`` costs no more than click.
"""

from importlib import import_module
from typing import Any

import click

from llmsim.cli.console import common, console
from llmsim.errors import LlmsimError

INTERNAL_ERROR = 70
INTERRUPTED = 130

# name -> (module:attribute, line of help)
COMMANDS = {
    "simulate": ("llmsim.cli.simulate:simulate", "Simulate a scenario; without arguments, a demonstration."),
    "sweep": ("llmsim.cli.sweep:sweep", "Simulate a scenario at every point of a grid."),
    "capacity": ("llmsim.cli.capacity:capacity", "Find the highest load under objectives, or the smallest deployment."),
    "compare": ("llmsim.cli.compare:compare", "Compare two runs, or a run and a measurement, with gates."),
    "memory": ("llmsim.cli.memory:memory", "Show what a scenario takes of its devices' memory; no simulation."),
    "transform": ("llmsim.cli.transform:transform", "Compare a model with its pruned or distilled self."),
    "cycles": ("llmsim.cli.cycles:cycles", "Show where the clock cycles of one request go; no simulation."),
    "scaling": ("llmsim.cli.scaling:scaling", "Show how times grow with parameters and lengths, and why."),
    "validate": ("llmsim.cli.validate:validate", "Predict a table of measured results and score the predictions."),
    "calibrate": ("llmsim.cli.calibrate:calibrate", "Fit a few numbers of your own stack to measurements."),
    "report": ("llmsim.cli.report:report", "Write one HTML page about a run or a sweep."),
    "plot": ("llmsim.cli.plot:plot", "Draw a run or a sweep as PNG or SVG files."),
    "init": ("llmsim.cli.init:init", "Print a commented scenario to begin with."),
    "check": ("llmsim.cli.check:check", "Look at a scenario file without running it."),
    "list": ("llmsim.cli.catalogue:list_", "List hardware, models, workloads, scenarios, schedulers or routers."),
    "show": ("llmsim.cli.catalogue:show", "Print an entry of the catalogue with its sources."),
    "trace": ("llmsim.cli.trace:trace", "Describe, convert or generate traces."),
    "conform": ("llmsim.cli.conform:conform", "Log the scheduler's decisions on a scripted workload."),
    "schema": ("llmsim.cli.check:schema", "Print the JSON schema of scenario files."),
}


class Application(click.Group):
    """A group that imports its commands late and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with the exit code of whatever error it meets."""
        try:
            return super().invoke(ctx)
        except LlmsimError as error:
            console().error(str(error))
            _traceback()
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            console().error("interrupted")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            console().error(
                f"internal error, please report: {type(error).__name__}: {error}\n"
                "hint: the same command with -vv shows where"
            )
            _traceback()
            ctx.exit(INTERNAL_ERROR)


def _traceback() -> None:
    if console().verbose >= 2:
        import traceback

        click.echo(traceback.format_exc(), err=True)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from llmsim import __version__

        click.echo(f"llmsim {__version__}")
        context.exit()


@click.group(
    cls=Application,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "LLMSIM",
        "max_content_width": 110,
    },
    epilog="Every option can also come from the environment: LLMSIM_SIMULATE_SEED=1 is simulate --seed 1.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print it.")
@common
def cli() -> None:
    """Predict what an LLM serving cluster will do: latency distributions, throughput, and where the time goes."""
