"""Checks the certificate of the telephony port: its files, its dates, its names, and who trusts it.

Python's library cannot parse a certificate, but its TLS can. So a handshake takes place in memory, between a
server with the files and a client that trusts only them. The client then tells the names and dates, or the
error.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pxbridge.app.certificates import telephony_tls
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.errors import ConfigError
from pxbridge.settings import variable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pxbridge.settings import Loaded

DAY_S: Final = 86_400.0
SOON_DAYS: Final = 14.0
"""Certificates are usually renewed a month before they expire. With less left, the renewal has failed."""

_EXPIRED, _NOT_YET = 10, 9
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID."""
_OTHERS_MAY_READ: Final = 0o007
"""Permissions of other users. The group may read: Debian's ssl-cert and Kubernetes' fsGroup need that."""


def certificate(loaded: Loaded, now_s: float) -> Iterator[Finding]:
    """Findings about the certificate at `now_s`, in seconds since 1970; none without a certificate."""
    settings = loaded.settings
    cert_file = settings.tls_cert_file
    if cert_file is None:
        return
    try:
        tls = telephony_tls(loaded)
    except ConfigError as error:
        yield wrong("tls", f"{error.setting} ({error.source}) is wrong", error.problem)
        return
    if tls is None:
        return
    key_file = settings.tls_key_file or cert_file
    if (mode := key_file.stat().st_mode) & _OTHERS_MAY_READ:
        yield wrong(
            "tls",
            f"other users of this machine can read the key {key_file}",
            f"`chmod {mode & 0o770:o} {key_file}`",
        )
    try:
        seen = _handshake(tls.context, _trusting(cert_file), None)
    except ssl.SSLCertVerificationError as error:
        yield _unusable(cert_file, error)
        return
    left_days = (ssl.cert_time_to_seconds(seen["notAfter"]) - now_s) / DAY_S
    until = f"{cert_file} is valid until {seen['notAfter']}"
    if left_days < SOON_DAYS:
        yield note(
            "tls", f"{until}: {left_days:.0f} days", "renew it; the bridge loads the new file by itself"
        )
    else:
        yield good("tls", until)
    if settings.public_url is not None and (host := urlsplit(settings.public_url).hostname):
        try:
            _handshake(tls.context, _trusting(cert_file, check_host=True), host)
        except ssl.SSLCertVerificationError:
            names = ", ".join(name for _, name in seen.get("subjectAltName", ())) or "no name"
            yield wrong(
                "tls",
                f"{cert_file} is for {names}, and {variable('public_url')} names {host}",
                f"get a certificate for {host}, or set {variable('public_url')} to a name of the certificate",
            )
    try:
        _handshake(tls.context, ssl.create_default_context(), host_of(seen))
    except ssl.SSLCertVerificationError as error:
        yield note(
            "tls",
            f"{cert_file} is not trusted by clients that trust only public authorities, such as Exotel: "
            f"{error.verify_message}",
            "use a certificate of a public authority, with its whole chain in the file",
        )


def host_of(seen: dict[str, Any]) -> str:
    """A name of the certificate; empty if it has none."""
    return next(
        (str(name).replace("*", "x") for kind, name in seen.get("subjectAltName", ()) if kind == "DNS"), ""
    )


def _unusable(cert_file: Path, error: ssl.SSLCertVerificationError) -> Finding:
    match error.verify_code:
        case code if code == _EXPIRED:
            return wrong(
                "tls", f"{cert_file} has expired", "renew it; the bridge loads the new file by itself"
            )
        case code if code == _NOT_YET:
            return wrong(
                "tls",
                f"{cert_file} is not valid yet",
                "correct this machine's clock, or wait until it is valid",
            )
        case _:
            return wrong(
                "tls", f"{cert_file} cannot be used: {error.verify_message}", "get another certificate"
            )


def _trusting(cert_file: Path, *, check_host: bool = False) -> ssl.SSLContext:
    """A client that trusts only this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_host
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cert_file)
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None) -> dict[str, Any]:
    """The server's certificate as the client sees it, after a TLS handshake in memory."""
    if not host:
        client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host or None),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):  # more than the flights of a handshake: four in TLS 1.2, three in 1.3
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        if ends[0].version() is not None and ends[0].getpeercert():
            break
    return dict(ends[0].getpeercert() or {})
