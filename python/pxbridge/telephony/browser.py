"""The adapter for browsers, and for every other client of PersonaPlex's protocol (`pxbridge.chat_wire`).

The bridge is the engine's side of the protocol here. A client connects with the persona or the prompts in the
URL's query, so its call starts with the connection. It gets the handshake when an agent hears it, and sends
no audio before that. Beyond PersonaPlex's messages, it gets the state of its call as metadata (kind 04).
Clients ignore kinds that they do not know.

==========================================  ==============================================================
``{"call": {"id", "persona", "recorded"}}``  once, when the call has begun
``{"queue": {"place": 2}}``                  its place in line for an engine; 1 is next, 0: no longer in line
``{"agent": "lost"}``, ``{"agent": "back"}``  the engine was lost; another one goes on
``{"clear": true}``                          what was sent and is not played yet need not be heard
==========================================  ==============================================================
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from pxbridge import chat_wire
from pxbridge.audio import Line
from pxbridge.chat_wire import FrameReader, Kind
from pxbridge.telephony import carrier
from pxbridge.websocket import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pxbridge.telephony.carrier import Event, Notice, PlayoutProfile

RATE_HZ: Final = chat_wire.ENGINE_HZ
"""Both streams of the protocol have this rate."""

LIMITS: Final = Limits(
    max_message_bytes=16 * 1024,
    ping_interval_s=10.0,
    pong_timeout_s=30.0,
    max_bytes_per_s=64 * 1024,
    max_frames_per_s=200,
    burst_s=6.0,
)
"""Clients send packets of 20 ms, some hundred bytes each; after a stall of 20 s, a thousand at once. A packet
of a few bytes may claim 120 ms, so frames are bounded more closely than a phone's: each may cost as much as a
second of decoding. Browsers answer pings by themselves, even while a page sends nothing because it waits for
its agent."""

PARAMETERS: Final = frozenset({"persona", "voice_prompt", "text_prompt", *chat_wire.SAMPLING})
"""What the query may choose. Other parameters are ignored."""

MAX_PARAMETERS: Final = 64

_PING: Final = chat_wire.ping()

BEHAVIOUR: Final = carrier.Behaviour(
    returns_marks=False,
    marks_after_clear=None,
    can_clear=True,
    paced_by=carrier.PacedBy.BRIDGE,
    payload=carrier.PayloadRule(packet_ms=20, max_bytes=64_000),
    after_close=carrier.AfterClose.HANGS_UP,
    waits_for_agent=True,
    takes_notices=True,
)


class BrowserCarrier:
    """One client's connection; a `pxbridge.telephony.carrier.Carrier`.

    Args:
        query: The query of its URL.

    Attributes:
        parameters: What the query chose, by name (`PARAMETERS`).
        start: The call's start.

    Raises:
        ValueError: The query has too many parameters. The text says so.
    """

    name: Final = "Browser"
    behaviour: Final = BEHAVIOUR

    def __init__(self, query: str = "") -> None:
        self.parameters = _parameters(query)
        call_id = f"web-{secrets.token_hex(8)}"
        self.start = carrier.Start(
            call_id=call_id,
            stream_id=call_id,
            caller="",
            called="",
            parameters=self.parameters,
            media=carrier.MediaFormat(RATE_HZ),
        )
        self._frames = FrameReader()
        self._has_agent = False

    def parse(self, message: bytes, *, is_text: bool) -> Event:
        """Reads one message. Never raises."""
        if is_text:
            return carrier.Malformed("a text message; this protocol has none")
        frame = self._frames.read(message)
        if frame is None:
            return carrier.Malformed("a message of no known kind")
        match frame.kind:
            case Kind.AUDIO:
                return carrier.Media()
            case Kind.PING:
                return carrier.Ask(_PING)
            case kind:
                return carrier.Unknown(kind.name.lower())

    def notice(self, notice: Notice) -> list[tuple[bytes, bool]]:
        """The messages that tell the client this."""
        return [(message, False) for message in self._messages(notice)]

    def _messages(self, notice: Notice) -> list[bytes]:
        match notice:
            case carrier.Begun(call_id=call_id, persona=persona, recorded=recorded):
                return [
                    chat_wire.metadata({"call": {"id": call_id, "persona": persona, "recorded": recorded}})
                ]
            case carrier.InLine(place=place):
                return [chat_wire.metadata({"queue": {"place": place}})]
            case carrier.Listening() if not self._has_agent:
                self._has_agent = True
                return [chat_wire.handshake()]
            case carrier.Listening():
                return [chat_wire.metadata({"agent": "back"})]
            case carrier.AgentLost():
                return [chat_wire.metadata({"agent": "lost"})]
            case carrier.Said(text=text):
                return [chat_wire.text(text)]
            case carrier.Failed(text=text):
                return [chat_wire.error(text)]

    def fix_rate(self, rate_hz: int) -> str:
        """What an operator can do about a line with a wrong rate."""
        return "reload the page: its microphone runs at another speed than it says"

    def open_line(
        self, start: carrier.Start, *, profile: PlayoutProfile, gate_ms: int, max_backlog_ms: int
    ) -> Line:
        """Opens the line. A browser's line does not crack when it opens, and it takes payloads of any
        size.
        """
        return Line(
            start.media.rate_hz,
            carrier="browser",
            stream_id=start.stream_id,
            profile="low-delay" if profile == "low-delay" else "standard",
            gate_ms=0,
            max_backlog_ms=max_backlog_ms,
        )


def _parameters(query: str) -> Mapping[str, str]:
    """What a query chooses; the last of two equals counts.

    Raises:
        ValueError: There are too many parameters.
    """
    try:
        pairs = parse_qsl(query, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise ValueError(f"the URL has more than {MAX_PARAMETERS} parameters") from None
    return {name: value for name, value in pairs if name in PARAMETERS}
