"""WebSockets without a task, queue or timer per message: a shell around `websockets`' sans-I/O protocol.

The protocol object of `websockets` turns bytes into frames and frames into bytes. This package connects it to
a transport. ``data_received`` calls ``on_message`` directly, and ``send`` writes to the transport before it
returns, so a message costs no task switch. This package bounds the handshake, the closing, the size of a
message, and the bytes queued for a peer that does not read. It never compresses: speech hardly compresses,
and trying costs more CPU time than the rest of a call.

Nearly every message in a call is one frame that arrives in one read. A short fast path reads this case and
writes every message. In a paced call the code is never in the CPU's caches, and going through the library's
objects cost a third of the total CPU time (benches/websocket_cpu.py). The protocol object does the rest: the
handshake, fragmented messages, frames that arrive in pieces, control frames, and protocol errors.

`connection` is one open connection, `limits` what it is held to, and `frames` its reader and writer of
frames. `accepted` is the server's end of a connection, `requests` what it can ask for before its upgrade, and
`serving` the listening socket. `proxy_protocol` reads what a proxy sends before all else, and `turned_away`
counts and logs what does not get in. `takeover` puts a connection behind another HTTP server. `dialling` is
the client's end. `sockets` sets up what the kernel does.
"""

from websockets.datastructures import Headers
from websockets.http11 import Response

from pxbridge.errors import HandshakeFailed, HandshakeRefused
from pxbridge.websocket.connection import WebSocket
from pxbridge.websocket.dialling import connect
from pxbridge.websocket.limits import NO_PONG, PEER_STOPPED_READING, Closed, Limits
from pxbridge.websocket.proxy_protocol import begins_header, sends_no_header
from pxbridge.websocket.request_reader import begins_tls
from pxbridge.websocket.requests import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    Accept,
    Handler,
    Request,
    options_response,
    text_response,
)
from pxbridge.websocket.serving import MAX_OPENING, Server, serve
from pxbridge.websocket.sockets import address_of
from pxbridge.websocket.takeover import take_over
from pxbridge.websocket.turned_away import Reason, Report, TurnedAway, shown

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_HEAD_BYTES",
    "MAX_OPENING",
    "NO_PONG",
    "PEER_STOPPED_READING",
    "Accept",
    "Closed",
    "Handler",
    "HandshakeFailed",
    "HandshakeRefused",
    "Headers",
    "Limits",
    "Reason",
    "Report",
    "Request",
    "Response",
    "Server",
    "TurnedAway",
    "WebSocket",
    "address_of",
    "begins_header",
    "begins_tls",
    "connect",
    "options_response",
    "sends_no_header",
    "serve",
    "shown",
    "take_over",
    "text_response",
]
