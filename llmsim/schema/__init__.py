"""From YAML to a checked scenario: line and column of every error, origin of every default.

pydantic lives here and nowhere deeper, and loads only when a name below is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmsim.schema.build import load, scenario
    from llmsim.schema.document import Scenario, json_schema
    from llmsim.schema.resolution import Resolved, resolve
    from llmsim.schema.resolved_text import resolved_yaml

__all__ = ["Resolved", "Scenario", "json_schema", "load", "resolve", "resolved_yaml", "scenario"]

_HOMES = {
    "Resolved": "resolution",
    "Scenario": "document",
    "json_schema": "document",
    "load": "build",
    "resolve": "resolution",
    "resolved_yaml": "resolved_text",
    "scenario": "build",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
