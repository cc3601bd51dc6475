"""Small simulations with plain prices, under the short names that tests use."""

from llmsim.testing.plain import PlainPrices
from llmsim.testing.plain import plain_options as options
from llmsim.testing.plain import run_plain as run

__all__ = ["PlainPrices", "options", "run"]
