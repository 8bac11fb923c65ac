"""The engine's TLS certificate: read from a folder, or made there by the engine itself.

Nobody has signed a certificate that a machine made for itself, so a bridge trusts it by its fingerprint:
the SHA-256 of the whole certificate (DER), 64 hexadecimal digits.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CERT_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
"""The names that NVIDIA's `--ssl DIR` expects."""

VALID_DAYS: Final = 3650
"""Bridges pin its fingerprint and nobody can revoke it, so an early expiry would protect nothing."""


class Certificate(NamedTuple):
    """A certificate, and the context to serve TLS with it.

    Attributes:
        context: For the server.
        sha256: The certificate's fingerprint.
        made: Whether it was made now.
    """

    context: ssl.SSLContext
    sha256: str
    made: bool


def certificate_in(folder: Path, host: str) -> Certificate:
    """Reads the certificate in a folder, or makes one there.

    Args:
        folder: Holds `cert.pem` and `key.pem`, or neither.
        host: A name for the certificate, beside this machine's own names.

    Raises:
        ConfigError: There is one of the two files only, or they do not fit, or they cannot be made.
    """
    cert, key = folder / CERT_FILE, folder / KEY_FILE
    missing = [file.name for file in (cert, key) if not file.exists()]
    made = len(missing) == 2
    if len(missing) == 1:
        problem = f"{missing[0]} is missing in {folder}; give both files, or neither to have them made"
        raise ConfigError("--ssl", "command line", problem)
    try:
        if made:
            _make(cert, key, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: older ones are not to be spoken
        # A key with a passphrase would make OpenSSL ask for it at the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
        der = ssl.PEM_cert_to_DER_cert(_first_pem(cert.read_text("ascii", errors="replace")))
    except ssl.SSLError as error:
        raise ConfigError(
            "--ssl",
            "command line",
            f"{cert} and {key} are no PEM certificate with the key that belongs to it",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError("--ssl", "command line", f"{folder}: {error}") from error
    return Certificate(context, hashlib.sha256(der).hexdigest(), made)


def _first_pem(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise ValueError("there is no certificate in cert.pem")
    return begin + text.partition(begin)[2].partition(end)[0] + end


def _make(cert_file: Path, key_file: Path, host: str) -> None:
    """Makes a key and a certificate for this machine, signed by that key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise ConfigError(
            "--ssl",
            "command line",
            "to make a certificate, `pip install 'pxbridge[engine]'`; or give your own",
        ) from error
    names: list[x509.GeneralName] = []
    for name in dict.fromkeys((host, "localhost", socket.gethostname(), "127.0.0.1", "::1")):
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        with contextlib.suppress(ValueError):
            names.append(x509.DNSName(name))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pxbridge engine")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(private)
    cert_file.write_bytes(certificate.public_bytes(pem))
