"""Who may come in, as the settings say it together: no bridge starts open to anyone by mistake."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pxbridge.errors import ConfigError
from pxbridge.settings.fields import variable

if TYPE_CHECKING:
    from pxbridge.settings.sources import Loaded


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def url_host(host: str) -> str:
    """What stands in a URL for a server that listens on `host`, as this machine reaches it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host


def check_access(loaded: Loaded) -> list[str]:
    """Check that not everyone may come in, unless that is what is wanted.

    Returns:
        What the operator should know of how the door is kept, one sentence each, for the log.

    Raises:
        ConfigError: Anyone could reach the bridge or use an engine, and nobody said that this is meant.
    """
    settings = loaded.settings
    public = not is_loopback(settings.host)
    guards = [name for name in ("credentials", "token_keys", "allowed_networks") if getattr(settings, name)]
    if settings.allow_anonymous and guards:
        written, source = loaded.origins["allow_anonymous"]
        other = loaded.origins[guards[0]][0]
        raise ConfigError(written, source, f"contradicts {other}; keep one of the two")
    if not guards and not settings.allow_anonymous and (public or settings.engines):
        name, what = (
            ("host", "the port is open to the network") if public else ("engines", "engines are real")
        )
        written, source = loaded.origins.get(name, (name, "in force"))
        raise ConfigError(
            written,
            source,
            f"{what}, and nothing says who may come in; set {variable('credentials')}, "
            f"{variable('token_keys')} or {variable('allowed_networks')}, "
            f"or {variable('allow_anonymous')}=true to let in anyone",
        )
    notes = []
    if settings.allow_anonymous and (public or settings.engines):
        notes.append("anyone who reaches the telephony port may call (allow_anonymous)")
    if public and guards and settings.tls_cert_file is None and not settings.trusted_proxies:
        notes.append(
            "callers' passwords and voices cross the network in the clear; "
            f"set {variable('tls_cert_file')}, or {variable('trusted_proxies')} and a proxy that serves TLS"
        )
    if settings.console_port and not is_loopback(settings.console_host):
        notes.append(
            "operators' passwords and the calls they see cross the network in the clear: the console has no "
            f"TLS; set {variable('console_host')}=127.0.0.1, and bring TLS by a tunnel or a proxy"
        )
    return notes
