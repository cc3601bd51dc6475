"""The pytest plugin: fixtures for percentile regression tests.  It imports pytest and nothing heavier.

def test_chat(llmsim_run, llmsim_baseline):
    run = llmsim_run("deploy/chat.yaml", request_rate=8)
    assert_slo(run, "p99_ttft_ms <= 500")
    llmsim_baseline.check(run, ["p99_ttft_ms", "output_throughput"], rtol=0.02)

``pytest --llmsim-update`` writes the baselines, as JSON below ``__llmsim__`` beside the test.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llmsim.testing.baseline import Baseline
    from llmsim.testing.cache import RunCache


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --llmsim-update and --llmsim-rtol."""
    group = parser.getgroup("llmsim", "llmsim: simulated percentiles")
    group.addoption("--llmsim-update", action="store_true", help="write the baselines of the tests that run anew")
    group.addoption(
        "--llmsim-rtol", type=float, metavar="X", help="relative tolerance of every baseline, whatever the test says"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to write baselines where nobody would look at them."""
    if config.getoption("--llmsim-update") and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--llmsim-update: refused, because CI is set: make baselines where you can look at them"
        )
    rtol = config.getoption("--llmsim-rtol")
    if rtol is not None and not rtol >= 0:
        raise pytest.UsageError(f"--llmsim-rtol: must not be negative (got {rtol})")


@pytest.fixture(scope="session")
def llmsim_run(pytestconfig: pytest.Config) -> RunCache:
    """Simulate a scenario: ``llmsim_run(scenario, **set)`` returns its `Run`; each is simulated once a session."""
    from llmsim.testing.cache import RunCache

    return RunCache(pytestconfig.rootpath)


@pytest.fixture
def llmsim_baseline(request: pytest.FixtureRequest) -> Baseline:
    """Compare runs with what they were: ``llmsim_baseline.check(run, ["p99_ttft_ms"], rtol=0.02)``."""
    from llmsim.testing.baseline import Baseline

    file, _, name = request.node.nodeid.partition("::")
    return Baseline(
        request.node.path,
        name,
        f"pytest '{file}::{name}' --llmsim-update",
        update=request.config.getoption("--llmsim-update"),
        rtol=request.config.getoption("--llmsim-rtol"),
    )
