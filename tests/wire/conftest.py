"""Fixtures of the wire tests."""

from __future__ import annotations

import pytest
from tests.websocket_ends import Ends


@pytest.fixture
def ends() -> Ends:
    return Ends()
