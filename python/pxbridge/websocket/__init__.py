"""WebSockets without a task, queue or timer per message: a shell around `websockets`' sans-I/O protocol.

The protocol object of `websockets` turns bytes into frames and frames into bytes; this file gives it a
transport. A message is handed to ``on_message`` from inside ``data_received``, and ``send`` writes to the
transport before it returns, so a message costs no task switch. What has to be bounded is bounded here: the
handshake, the closing, the size of a message, and how much a peer that does not read may leave queued.
Nothing is ever compressed: speech does not shrink, and the attempt costs more than the call.

Nearly every message in a call is one frame that arrives in one read. That case is read, and every message is
written, by a few lines here: in a paced call the code is never warm, and going through the library's objects
for it cost a third of the whole (benches/websocket_cpu.py). Everything else is the protocol object's: the
handshake, fragments, frames in pieces, control frames, and whatever breaks the rules.

`connection` is one open connection, `frames` the lines that read and write it, `serving` the server's end and
`dialling` the client's.
"""

from websockets.datastructures import Headers
from websockets.http11 import Response

from pxbridge.errors import HandshakeFailed, HandshakeRefused
from pxbridge.websocket.connection import NO_PONG, PEER_STOPPED_READING, Closed, Limits, WebSocket
from pxbridge.websocket.dialling import connect
from pxbridge.websocket.serving import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_OPENING,
    Accept,
    Handler,
    Request,
    Server,
    serve,
    text_response,
)

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
    "Request",
    "Response",
    "Server",
    "WebSocket",
    "connect",
    "serve",
    "text_response",
]
