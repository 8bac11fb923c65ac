"""A simulated Exotel: a caller, a player, and their messages with a bridge.

It is the other end of the wire for tests, benches and `pxbridge call`. It reads the bridge's messages with
code of its own, because an error in shared code would not show.

`machine` is the phone, without a socket and without a clock. `dialling` places its call over a real socket; a
test can call the machine directly with times of its own. `line` is the phone line, `caller` the person at the
phone.
"""

from pxbridge.simulation.phone.caller import Caller, Leaving, Mood, Script
from pxbridge.simulation.phone.dialling import OBSERVE, OBSERVED_EVENT, Clock, Observer, place_call
from pxbridge.simulation.phone.g711 import decode_a_law, decode_mu_law, encode_a_law, encode_mu_law
from pxbridge.simulation.phone.line import SPELLINGS, HangUp, Line
from pxbridge.simulation.phone.machine import (
    BROKEN_OFF,
    PAYLOAD_LIMIT,
    PAYLOAD_UNIT,
    Ended,
    Fault,
    Phone,
    Wire,
)
from pxbridge.simulation.phone.shown_url import shown, without_secrets

__all__ = [
    "BROKEN_OFF",
    "OBSERVE",
    "OBSERVED_EVENT",
    "PAYLOAD_LIMIT",
    "PAYLOAD_UNIT",
    "SPELLINGS",
    "Caller",
    "Clock",
    "Ended",
    "Fault",
    "HangUp",
    "Leaving",
    "Line",
    "Mood",
    "Observer",
    "Phone",
    "Script",
    "Wire",
    "decode_a_law",
    "decode_mu_law",
    "encode_a_law",
    "encode_mu_law",
    "place_call",
    "shown",
    "without_secrets",
]
