"""Sphinx builds the site from the pages beside this file, the notebooks, and the code (CONTRIBUTING.md)."""

import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from llmsim import __version__ as release  # noqa: E402  # the checkout's own, not one that is installed

project = "llmsim"
author = "the llmsim developers"
version = release

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_click"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks hold their outputs; tests/test_notebooks.py runs them

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = f"llmsim {release}"


def _bring_notebooks(_: Any) -> None:
    """Copy the notebooks beside the pages: Sphinx reads nothing outside its folder."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copyfile(notebook, target / notebook.name)


def _moved(text: str) -> str:
    """Return a page with links as they are on the site, where files of the project's top level are pages too."""
    return text.replace("](docs/", "](").replace("](../CONTRIBUTING.md", "](contributing.md")


def _link(*told: Any) -> None:
    """Rewrite the links of a page, or of a file that it includes; the text is the last argument's only item."""
    told[-1][0] = _moved(told[-1][0])


def setup(app: Any) -> None:
    """Hook into the build."""
    app.connect("builder-inited", _bring_notebooks)
    app.connect("source-read", _link)
    app.connect("include-read", _link)
