"""A telephony server that takes Exotel's calls, for tests that only need some carrier."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pxbridge.telephony import carrier, server
from pxbridge.telephony.exotel.routes import ExotelRoutes

if TYPE_CHECKING:
    from pxbridge.telephony.server import Arrival

listen = partial(server.listen, carriers=[ExotelRoutes()])


def line_rate_hz(arrival: Arrival) -> int:
    """The rate of the line of a call whose start message names none."""
    start = arrival.carrier.parse(b'{"event": "start"}', is_text=True)
    assert isinstance(start, carrier.Start)
    return start.media.rate_hz
