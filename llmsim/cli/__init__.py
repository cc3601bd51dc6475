"""The command line: parses, calls, prints; computes nothing.  ``llmsim --help`` loads click and nothing heavier."""


def main() -> None:
    """Run the ``llmsim`` command and leave with its exit code."""
    from llmsim.cli.app import cli

    cli(prog_name="llmsim")
