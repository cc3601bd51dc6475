"""Fixtures that several test files use."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; a test that needs it skips without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"reference data not found: {folder.name}/ beside the checkout")
    return folder


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C be heard, here and in processes that a test starts: shells start background jobs deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be made anew, and only when somebody says so."""
    parser.addoption(
        "--regen-golden", action="store_true", help="write tests/golden/*.json anew from what the simulator gives now"
    )
