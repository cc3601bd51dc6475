"""What happens between engines: which replica serves a request."""

from llmsim.fleet.routers import ROUTERS, Router

__all__ = ["ROUTERS", "Router"]
