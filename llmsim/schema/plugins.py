"""A user's own scheduler or router, by name: ``package.module:Name``."""

from functools import reduce
from importlib import import_module
from typing import Any

from llmsim.errors import ScenarioError


def find(name: str) -> Any:
    """Return the object that ``package.module:Name`` means; the working directory is looked in too.

    Raises:
        ScenarioError: the module cannot be imported, or it has no such name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = _import(module_name)
    except ImportError as error:
        raise ScenarioError(f"cannot import module {module_name!r} ({error})") from None
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise ScenarioError(f"module {module_name!r} has no name {attribute!r}") from None


def _import(name: str) -> Any:
    import sys

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or name.split(".")[0] != error.name.split(".")[0] or "" in sys.path:
            raise
    # An installed command does not look in the working directory, `python -m` does.
    sys.path.insert(0, "")
    try:
        return import_module(name)
    finally:
        sys.path.remove("")
