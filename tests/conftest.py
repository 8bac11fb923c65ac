"""What tests have: a home of their own for what the bridge writes to the user's, and logs that go nowhere."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# No example is too slow: how long one takes depends on the machine. The rest is hypothesis's own profile: it
# draws the same examples each time if CI is set.
settings.register_profile("pxbridge", settings.default, deadline=None)
settings.load_profile("pxbridge")


@pytest.fixture
def uncaptured() -> Iterator[None]:
    """Log lines go nowhere: pytest keeps each that it sees, with all that it tells of."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A bridge that was told to stop leaves the signals at their default actions, as a process should."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
