"""A simulated Exotel: one caller, one player and the messages between them and a bridge.

It is the other end of the wire for tests, benches and `pxbridge call`. What the bridge sends is read here
with code that the bridge does not use: what both misread in the same way would go unseen.

`machine` is the phone, without a socket and without a clock; `dialling` places its call over a real socket,
where a test may do so with a loop over made-up times.
"""

from pxbridge.simulation.phone.caller import Caller, Mood, Script
from pxbridge.simulation.phone.dialling import OBSERVE, OBSERVED_EVENT, Clock, Observer, place_call, shown
from pxbridge.simulation.phone.line import SPELLINGS, HangUp, Line
from pxbridge.simulation.phone.machine import PAYLOAD_LIMIT, PAYLOAD_UNIT, Ended, Fault, Phone, Wire
from pxbridge.simulation.phone.mu_law import decode_mu_law, encode_mu_law

__all__ = [
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
    "Line",
    "Mood",
    "Observer",
    "Phone",
    "Script",
    "Wire",
    "decode_mu_law",
    "encode_mu_law",
    "place_call",
    "shown",
]
