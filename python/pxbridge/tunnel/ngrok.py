"""ngrok, version 3: needs an account's token (`ngrok config add-authtoken`, or NGROK_AUTHTOKEN).

Its own web server lists the tunnels. It is at port 4040, or the next one that is free: the log says where.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pxbridge.tunnel.program import LOOPBACK, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

USUAL_WEB_PORT: Final = 4040
_OK: Final = 200
_ERRORS: Final = ("eror", "crit", "error")


class Ngrok:
    """The kind."""

    name = "ngrok"
    install = "https://ngrok.com/download"

    def new(self, host: str, port: int) -> NgrokTunnel:
        """A start that leads to `host` and `port`."""
        return NgrokTunnel(host, port)

    def failed(self, connected: bool) -> None:
        """There is one way to call it."""


class NgrokTunnel:
    """One start.

    Args:
        host: The host behind the tunnel.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = f"{host}:{port}"
        self._web: str | None = None

    @property
    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        return ("ngrok", "http", self._target, "--log", "stdout", "--log-format", "json")

    def read(self, line: str) -> None:
        """Takes the address of its web server from its log."""
        told = _decoded(line)
        if told.get("obj") == "web" and isinstance(told.get("addr"), str):
            self._web = told["addr"]

    async def address(self) -> str | None:
        """Its public URL."""
        status, told = await ask(f"http://{self._web or f'{LOOPBACK}:{USUAL_WEB_PORT}'}/api/tunnels")
        tunnels = told.get("tunnels") if status == _OK and isinstance(told, dict) else None
        for tunnel in tunnels if isinstance(tunnels, list) else ():
            # Another ngrok may have the usual port: its tunnels lead elsewhere.
            url, leads_to = tunnel.get("public_url"), (tunnel.get("config") or {}).get("addr", "")
            if isinstance(url, str) and url.startswith("https://") and leads_to.endswith(self._target):
                return "wss://" + url.removeprefix("https://").rstrip("/")
        return None

    async def is_connected(self) -> bool:
        """Whether it has a tunnel, which it has while it is connected."""
        return await self.address() is not None

    def last_words(self, lines: Sequence[str]) -> str:
        """Its last error."""
        for line in reversed(lines):
            told = _decoded(line)
            if told.get("lvl") in _ERRORS:
                return " ".join(str(told.get("err") or told.get("msg") or "").split())
            if not told:
                return line.removeprefix("ERROR:").strip()
        return ""


def _decoded(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
