"""bore: a plain TCP tunnel by a server of one's own (``BORE_SERVER``) or the public one.

It brings no TLS. Carriers that ask for ``wss://`` cannot dial it, and passwords and voices cross the network
unencrypted: it is for trying things out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PUBLIC_SERVER: Final = "bore.pub"
SERVER_VARIABLE: Final = "BORE_SERVER"

_LISTENING: Final = re.compile(r"\blistening at (?P<address>\S+:\d+)$")
_STAMPED: Final = re.compile(r"\d{4}-\d\d-\d\dT\S+\s+(?P<level>[A-Z]+)\s+(?P<text>.*)")


class Bore:
    """The kind.

    Args:
        environ: The environment, which may name the server.
    """

    name = "bore"
    install = "`cargo install bore-cli`, or https://github.com/ekzhang/bore"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._server = environ.get(SERVER_VARIABLE) or PUBLIC_SERVER

    def new(self, host: str, port: int) -> BoreTunnel:
        """A start that leads to `host` and `port`."""
        return BoreTunnel(host, port, self._server)

    def failed(self, connected: bool) -> None:
        """There is one way to call it."""


class BoreTunnel:
    """One start.

    Args:
        host: The host behind the tunnel.
        port: Its port.
        server: The host of the bore server.
    """

    def __init__(self, host: str, port: int, server: str) -> None:
        self._host, self._port, self._server = host, port, server
        self._address: str | None = None

    @property
    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        return ("bore", "local", str(self._port), "--local-host", self._host, "--to", self._server)

    def read(self, line: str) -> None:
        """Takes the address from its log, which is the only place that has it."""
        if (found := _LISTENING.search(line)) is not None:
            self._address = f"ws://{found['address']}"

    async def address(self) -> str | None:
        """Its public URL."""
        return self._address

    async def is_connected(self) -> bool:
        """It ends when its connection is lost, so it is connected as long as it runs."""
        return self._address is not None

    def last_words(self, lines: Sequence[str]) -> str:
        """Its last error: the line ``Error: ...`` and the causes below it."""
        for number, line in enumerate(lines):
            if line.startswith("Error:"):
                rest = [each.strip() for each in list(lines)[number:]]
                return " ".join(each for each in rest if each != "Caused by:").removeprefix("Error:").strip()
        for line in reversed(lines):
            stamped = _STAMPED.fullmatch(line)
            if stamped is not None and stamped["level"] in ("ERROR", "WARN"):
                return stamped["text"]
        return ""
