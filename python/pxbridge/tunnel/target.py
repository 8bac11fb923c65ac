"""The port behind a tunnel: a bridge's or an engine's, and the URL by which others reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Collection

_ADMITTED: Final = frozenset({503})
_ADMITTED_BY_ENGINE: Final = frozenset({400, 503})


@dataclass(frozen=True, slots=True)
class Target:
    """A port of this machine.

    Attributes:
        host: Where it listens, as this machine reaches it.
        port: The port.
        path: The path that clients dial; it may hold a token.
        login: ``USER:PASSWORD`` of the URL; None if the path has a token.
        guarded_path: A path that lets nobody in without that.
        what: The purpose of the line to paste, for people.
        admitted: Statuses in place of an upgrade that still prove that the client was let in: there was no
            room, or what it asked for cannot be.
    """

    host: str
    port: int
    path: str
    login: str | None
    guarded_path: str
    what: str
    admitted: Collection[int]

    def url(self, address: str) -> str:
        """What a client dials at a public address, with its secret."""
        scheme, _, rest = address.partition("://")
        user, _, password = (self.login or "").partition(":")
        login = "" if self.login is None else f"{quote(user, safe='')}:{quote(password, safe='')}@"
        return f"{scheme}://{login}{rest}{self.path}"

    def masked_url(self, address: str) -> str:
        """The same without the secret, for logs."""
        scheme, _, rest = address.partition("://")
        if self.login is None:
            return f"{scheme}://{rest}{self.guarded_path}/t/TOKEN"
        return f"{scheme}://USER:PASSWORD@{rest}{self.guarded_path}"


def bridge(host: str, port: int, *, path: str, login: str | None = None, token: str | None = None) -> Target:
    """A bridge's port.

    Args:
        host: Where it listens.
        port: The port.
        path: Where the carrier dials.
        login: ``USER:PASSWORD``; or else
        token: a token for the path.
    """
    with_token = path if token is None else f"{path}/t/{token}"
    what = "the URL for the carrier's applet"
    return Target(host, port, with_token, login if token is None else None, path, what, _ADMITTED)


def engine(host: str, port: int, *, path: str, token: str) -> Target:
    """An engine's port."""
    what = "the engine's URL for a bridge (PXBRIDGE_ENGINES)"
    return Target(host, port, path, f"bridge:{token}", path, what, _ADMITTED_BY_ENGINE)
