"""TLS that the telephony port serves itself, with a certificate that may change under it.

Certificates are replaced every few weeks, by a program that writes new files. The server's context is asked
for a chain once per handshake, so a new chain put into it holds for the next one, and live calls notice
nothing. Files that do not fit together, as while they are being replaced, change nothing and are tried again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 10.0
"""A certificate is renewed weeks before it expires: nobody waits for this."""


class ServingTls:
    """A server's TLS context that follows its files.

    Args:
        cert_file: The certificate and its chain, PEM.
        key_file: Its key, PEM; ``None`` if `cert_file` has it too.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: They hold no certificate and key that belong together.
    """

    def __init__(self, cert_file: Path, key_file: Path | None = None) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen = self._stamps()
        self.context = _context(cert_file, key_file)
        """For the server; the same for as long as it runs."""

    def reload(self) -> bool:
        """Take over changed files; whether there were any that could be."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return False
            _context(self._cert_file, self._key_file)  # a context that refuses a key keeps half of the pair
            self.context.load_cert_chain(self._cert_file, self._key_file)
        except OSError as error:  # ssl.SSLError is one
            log.warning("the changed TLS certificate cannot be used, the old one stays: %s", _problem(error))
            return False
        self._seen = stamps
        log.info("TLS: the certificate in %s was read again", self._cert_file)
        return True

    async def follow(self) -> None:
        """Look at the files again and again, for ever."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self.reload()

    def _stamps(self) -> list[tuple[int, int, int]]:
        """What changes when a file is written or replaced."""
        files = [self._cert_file] if self._key_file is None else [self._cert_file, self._key_file]
        stats = [file.stat() for file in files]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]


def _context(cert_file: Path, key_file: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: the older ones are not to be spoken
    # A key with a passphrase would make OpenSSL ask for it at the terminal.
    context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    return context


def _problem(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it is not a PEM certificate with the key that belongs to it"
    return f"{error.filename}: {error.strerror}"
