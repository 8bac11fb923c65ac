"""URLs as they may be printed: without what lets their holder call.

A bridge lets a caller in by a user and password before the host, or by a signed token in the path
(``/exotel/t/TOKEN``). What a carrier adds to the query may be secret too.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "…"

SHORTEST_SECRET = 4
"""Shorter parts of a URL are not searched in other texts: they occur in many words."""

_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<user>.*@)?(?P<host>[^/?#@]*)(?P<path>[^?#@]*)"
    r"(?P<query>\?[^#@]*)?(?P<fragment>#[^@]*)?",
    re.DOTALL,
)
_TOKEN = re.compile(r"(?<=/t/)[^/]+")
_QUERY_VALUE = re.compile(r"(?<==)(?<!sample-rate=)[^&]+")


def shown(url: str) -> str:
    """A URL without user, password, token, and the values of its query except the sample rate.

    The host begins after the last ``@``, so that a password may contain any character.
    """
    found = _PARTS.fullmatch(url)
    if found is None:
        return HIDDEN
    query = _QUERY_VALUE.sub(HIDDEN, found["query"] or "")
    return (found["scheme"] or "") + found["host"] + _TOKEN.sub(HIDDEN, found["path"]) + query


def without_secrets(text: str, url: str) -> str:
    """A text of somebody else, such as a server's answer, without the secrets of the URL that was dialled."""
    found = _PARTS.fullmatch(url)
    if found is None:
        return text
    user = (found["user"] or "").removesuffix("@")
    secrets = {user, user.partition(":")[2], *_TOKEN.findall(found["path"])}
    secrets |= set(_QUERY_VALUE.findall(found["query"] or ""))
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text
