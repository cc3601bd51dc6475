"""``python -m llmsim.cli`` is ``llmsim``."""

from llmsim.cli import main

main()
