"""For tests: assertions on runs, the pytest plugin with its fixtures, and what every scheduler must keep."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmsim.testing.assertions import assert_slo
    from llmsim.testing.comparisons import assert_not_worse
    from llmsim.testing.scheduler_suite import check_scheduler

_HOMES = {"assert_not_worse": "comparisons", "assert_slo": "assertions", "check_scheduler": "scheduler_suite"}

__all__ = ["assert_not_worse", "assert_slo", "check_scheduler"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: pytest loads the plugin in every run of the user's environment."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llmsim.testing.{_HOMES[name]}"), name)
