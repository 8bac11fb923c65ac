"""cloudflared's quick tunnels: no account, a new name at each start, no promise of service.

Its metrics server reports the name (``/quicktunnel``) and whether it is connected (``/ready``). The process
goes on running without a connection to its network, so a running process proves nothing.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from pxbridge.tunnel.program import LOOPBACK, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

_OK: Final = 200
_STAMPED: Final = re.compile(r"\d{4}-\d\d-\d\dT\S+ (?P<level>[A-Z]{3}) (?P<text>.*)")


class Cloudflared:
    """The kind."""

    name = "cloudflared"
    install = "https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/downloads/"

    def __init__(self) -> None:
        self._without_udp = False

    def new(self, host: str, port: int) -> QuickTunnel:
        """A start that leads to `host` and `port`."""
        return QuickTunnel(host, port, _free_port(), without_udp=self._without_udp)

    def failed(self, connected: bool) -> None:
        """After a start that did not connect, the next one uses TCP: some networks drop UDP."""
        self._without_udp = not connected and not self._without_udp


class QuickTunnel:
    """One start.

    Args:
        host: The host behind the tunnel.
        port: Its port.
        metrics_port: A free port for its own metrics.
        without_udp: Whether it connects with HTTP/2 over TCP instead of QUIC over UDP.
    """

    def __init__(self, host: str, port: int, metrics_port: int, *, without_udp: bool = False) -> None:
        self._target = f"http://{host}:{port}"
        self._metrics = f"{LOOPBACK}:{metrics_port}"
        self._protocol = ("--protocol", "http2") if without_udp else ()

    @property
    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        return (
            *("cloudflared", "tunnel", "--no-autoupdate", "--url", self._target, "--metrics", self._metrics),
            *self._protocol,
        )

    def read(self, line: str) -> None:
        """Its lines are not needed: the banner's form is no interface."""

    async def address(self) -> str | None:
        """Its public URL."""
        status, told = await ask(f"http://{self._metrics}/quicktunnel")
        hostname = told.get("hostname") if status == _OK and isinstance(told, dict) else None
        return f"wss://{hostname}" if isinstance(hostname, str) and hostname else None

    async def is_connected(self) -> bool:
        """Whether it is connected to a server of its network."""
        status, _ = await ask(f"http://{self._metrics}/ready")
        return status == _OK

    def last_words(self, lines: Sequence[str]) -> str:
        """The last line without a time stamp, which names a failed start, or else its last error."""
        for line in reversed(lines):
            stamped = _STAMPED.fullmatch(line)
            if stamped is None:
                return line
            if stamped["level"] in ("ERR", "FTL"):
                return stamped["text"]
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
