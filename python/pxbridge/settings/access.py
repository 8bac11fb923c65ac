"""Who may come in, by all settings together. No bridge starts open to anyone by mistake."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pxbridge.errors import ConfigError
from pxbridge.settings.fields import variable

if TYPE_CHECKING:
    from pxbridge.settings.sources import Loaded


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def url_host(host: str) -> str:
    """The host of a URL by which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host


def check_access(loaded: Loaded) -> list[str]:
    """Check that nobody can call without proof, unless a setting says that this is wanted.

    Returns:
        Warnings about access for the operator, one sentence each, for the log.

    Raises:
        ConfigError: Anyone could call, and no setting says that this is wanted; or two settings contradict
            each other.
    """
    settings = loaded.settings
    public = not is_loopback(settings.host)
    guards = [name for name in ("credentials", "token_keys", "allowed_networks") if getattr(settings, name)]
    if settings.allow_anonymous and guards:
        written, source = loaded.origins["allow_anonymous"]
        other = loaded.origins[guards[0]][0]
        raise ConfigError(written, source, f"contradicts {other}; keep one of the two")
    if not guards and not settings.allow_anonymous and (public or settings.engines):
        name, danger = (
            ("host", "the port is open to the network") if public else ("engines", "calls use real engines")
        )
        written, source = loaded.origins.get(name, (name, "in force"))
        raise ConfigError(
            written,
            source,
            f"{danger}, and no setting says who may call; set {variable('credentials')}, "
            f"{variable('token_keys')} or {variable('allowed_networks')}, "
            f"or {variable('allow_anonymous')}=true to let anyone call",
        )
    if settings.proxy_protocol and not settings.trusted_proxies:
        written, source = loaded.origins.get("proxy_protocol", (variable("proxy_protocol"), "in force"))
        raise ConfigError(
            written,
            source,
            f"no proxy is named whose header could be believed; set {variable('trusted_proxies')} to the "
            "proxy's address",
        )
    notes = []
    if settings.allow_anonymous and (public or settings.engines):
        notes.append("anyone who reaches the telephony port may call (allow_anonymous)")
    if public and guards and settings.tls_cert_file is None and not settings.trusted_proxies:
        notes.append(
            "callers' passwords and voices cross the network unencrypted; "
            f"set {variable('tls_cert_file')}, or {variable('trusted_proxies')} and a proxy that serves TLS"
        )
    open_console = settings.console_port and not is_loopback(settings.console_host)
    if open_console and settings.console_tls_cert_file is None:
        notes.append(
            "operators' passwords and the calls they see cross the network unencrypted: the console has no "
            f"TLS; set {variable('console_tls_cert_file')}, or {variable('console_host')}=127.0.0.1 "
            "and use a tunnel or a proxy with TLS"
        )
    return notes
