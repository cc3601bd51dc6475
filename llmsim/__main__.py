"""`python -m llmsim`: the command line."""

from llmsim.cli import main

main()
