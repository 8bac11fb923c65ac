"""The adapter for Exotel: turns its messages into the events of `pxbridge.telephony.carrier`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pxbridge.audio import Line
from pxbridge.telephony import carrier
from pxbridge.telephony.exotel import messages

if TYPE_CHECKING:
    from pxbridge.telephony.carrier import Event, PlayoutProfile

BEHAVIOUR: Final = carrier.Behaviour(
    returns_marks=True,
    marks_after_clear=None,
    can_clear=True,
    paced_by=carrier.PacedBy.BRIDGE,
    payload=carrier.PayloadRule(packet_ms=20, max_bytes=100_000),
    after_close=carrier.AfterClose.FLOW_GOES_ON,
)
"""Exotel cuts audio that it receives into packets of 20 ms and plays one every 20 ms. Closing the socket ends
our applet of the flow, and the next applet runs."""


class ExotelCarrier:
    """One connection of Exotel; a `pxbridge.telephony.carrier.Carrier`.

    Args:
        url_rate_hz: The sample rate in the URL; None if the URL has none.
    """

    name: Final = "Exotel"
    behaviour: Final = BEHAVIOUR
    start: Final = None
    """Exotel sends it in a message."""

    def __init__(self, url_rate_hz: int | None = None) -> None:
        self._url_rate_hz = url_rate_hz

    def notice(self, notice: carrier.Notice) -> tuple[()]:
        """Nothing: a telephone has no screen."""
        return ()

    def parse(self, message: bytes, *, is_text: bool) -> Event:
        """Reads one message. Never raises."""
        match messages.parse(message):
            case messages.Start() as start:
                return self._start(start)
            case messages.Mark(name=name):
                return carrier.Mark(name)
            case messages.Dtmf(digit=digit):
                return carrier.Key(digit)
            case messages.Clear():
                return carrier.Clear()
            case messages.Stop(wording=wording):
                return carrier.Stop(wording)
            case messages.Connected():
                return carrier.Connected()
            case messages.Media():
                return carrier.Media()
            case messages.Unknown(event=name):
                return carrier.Unknown(name)
            case messages.Malformed(reason=reason):
                return carrier.Malformed(reason)

    def _start(self, start: messages.Start) -> carrier.Start:
        rate = messages.line_rate(self._url_rate_hz, start)
        encoding = messages.payload_encoding(start.encoding)
        return carrier.Start(
            call_id=start.call_id,
            stream_id=start.stream_sid,
            caller=start.caller,
            called=start.called,
            parameters=start.custom,
            media=carrier.MediaFormat(rate.rate_hz, encoding.encoding),
            notes=(*rate.notes, *encoding.notes, *messages.other_tracks(start.tracks)),
            refusal=encoding.refusal,
        )

    def fix_rate(self, rate_hz: int) -> str:
        """What an operator can do about a line with a wrong rate."""
        return f"write ?sample-rate={rate_hz} into the applet's URL"

    def open_line(
        self, start: carrier.Start, *, profile: PlayoutProfile, gate_ms: int, max_backlog_ms: int
    ) -> Line:
        """Opens the line of a call that has just begun."""
        return Line(
            start.media.rate_hz,
            carrier="exotel",
            encoding=start.media.encoding,
            stream_id=start.stream_id,
            profile=profile,
            gate_ms=gate_ms,
            max_backlog_ms=max_backlog_ms,
        )
