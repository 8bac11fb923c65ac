"""A client of the console, at the address that the settings of the bridge name."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pxbridge.errors import InputError
from pxbridge.settings import url_host, variable

if TYPE_CHECKING:
    from pxbridge.settings import Settings

TIMEOUT_S: Final = 10.0
"""A console answers in milliseconds, and within a second while its bridge stops."""

_UNAUTHORISED: Final = 401
_FIRST_ERROR: Final = 400


async def ask(settings: Settings, path: str, post: dict[str, Any] | None = None) -> Any:
    """The console's answer to a request, decoded from JSON.

    Args:
        settings: The settings of the bridge, with the address and a login of its console.
        path: The path of the request.
        post: The JSON body of a POST; None for a GET.

    Raises:
        InputError: No console answers, it refuses the login, or it answers with an error.
    """
    if settings.console_port == 0:
        raise InputError(
            f"{variable('console_port')} is 0, so this bridge has no console; set a port and restart it"
        )
    tls = _trusting(settings)
    scheme = "http" if tls is None else "https"
    base = f"{scheme}://{url_host(settings.console_host)}:{settings.console_port}"
    headers = {}
    if settings.console_credentials:
        login = settings.console_credentials[0].get_secret_value()
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=headers) as session,
            session.request(
                "GET" if post is None else "POST", base + path, json=post, ssl=tls or True
            ) as answer,
        ):
            if answer.status == _UNAUTHORISED:
                raise InputError(
                    f"the console at {base} refuses the login; set {variable('console_credentials')} "
                    "as for the bridge"
                )
            if answer.content_type != "application/json":
                raise InputError(
                    f"another program answers at {base} (status {answer.status}); set "
                    f"{variable('console_port')} as for the bridge"
                )
            found = await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        raise InputError(
            f"no console answers at {base}; start the bridge, or set {variable('console_host')} and "
            f"{variable('console_port')} as for the bridge"
        ) from None
    if answer.status >= _FIRST_ERROR:
        raise InputError(str(found.get("error", f"the console answered with status {answer.status}")))
    return found


def _trusting(settings: Settings) -> ssl.SSLContext | None:
    """Trusts the console's own certificate, whatever name it is for; None if the console serves no TLS.

    Raises:
        InputError: The certificate cannot be read.
    """
    if settings.console_tls_cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is for the name that people use, and this is the machine itself
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.console_tls_cert_file)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"cannot read {settings.console_tls_cert_file}: {error.strerror or error}") from None
    return context
