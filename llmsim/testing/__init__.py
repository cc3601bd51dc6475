"""Percentile regression tests: assertions on runs, and the pytest plugin with its fixtures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmsim.testing.assertions import assert_slo

__all__ = ["assert_slo"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: pytest loads the plugin in every run of the user's environment."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmsim.testing import assertions

    return getattr(assertions, name)
