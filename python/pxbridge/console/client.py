"""Asks the console of a bridge that runs on this machine, or wherever its settings say that it listens."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pxbridge.errors import InputError
from pxbridge.settings import url_host, variable

if TYPE_CHECKING:
    from pxbridge.settings import Settings

TIMEOUT_S: Final = 10.0
"""A console answers in milliseconds; a bridge that stops in a second."""

_UNAUTHORISED: Final = 401
_FIRST_ERROR: Final = 400


async def ask(settings: Settings, path: str, post: dict[str, Any] | None = None) -> Any:
    """What the console answers, as JSON.

    Args:
        settings: Those of the bridge: where its console is, and a login that it takes.
        path: What is asked for.
        post: What is to be changed, if it is to be.

    Raises:
        InputError: There is no console there, it wants another login, or it says no.
    """
    if settings.console_port == 0:
        raise InputError(f"{variable('console_port')} is 0: this bridge has no console to ask")
    base = f"http://{url_host(settings.console_host)}:{settings.console_port}"
    headers = {}
    if settings.console_credentials:
        login = settings.console_credentials[0].get_secret_value()
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=headers) as session,
            session.request("GET" if post is None else "POST", base + path, json=post) as answer,
        ):
            if answer.status == _UNAUTHORISED:
                raise InputError(
                    f"the console at {base} wants another login: set {variable('console_credentials')} "
                    "to one of the bridge's"
                )
            if answer.content_type != "application/json":
                raise InputError(f"what answers at {base} is no console of pxbridge ({answer.status})")
            told = await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        raise InputError(
            f"no console answers at {base}: start the bridge, or name its console with "
            f"{variable('console_host')} and {variable('console_port')}"
        ) from None
    if answer.status >= _FIRST_ERROR:
        raise InputError(str(told.get("error", f"the console says {answer.status}")))
    return told
