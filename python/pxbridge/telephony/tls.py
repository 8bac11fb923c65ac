"""TLS on the telephony port, with a certificate that is reloaded when its files change.

Certificates are replaced every few weeks, by a program that writes new files. OpenSSL takes the chain from
the server's context at each handshake. So a chain loaded into the context is used from the next handshake on,
and live calls are not affected. Certificate and key may not match while they are being replaced: such files
are ignored and tried again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 10.0
"""A certificate is renewed weeks before it expires, so a short delay does no harm."""

MAX_BYTES: Final = 1 << 20
"""Far more than a certificate with its chain and key has."""


class ServingTls:
    """A server's TLS context that follows its files.

    Args:
        cert_file: The certificate and its chain, PEM.
        key_file: The private key, PEM; ``None`` if it is in `cert_file`.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: The files do not contain a certificate and its key.
    """

    def __init__(self, cert_file: Path, key_file: Path | None = None) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen = self._stamps()
        self.context = _context(cert_file, key_file)
        """The server's context. It stays the same object while the server runs."""

    def reload(self) -> bool:
        """Load the files if they changed. Returns whether a new certificate was loaded."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return False
            # Try the files in another context first: a failed load leaves a context with half of the pair.
            _context(self._cert_file, self._key_file)
            self.context.load_cert_chain(self._cert_file, self._key_file)
        except OSError as error:  # ssl.SSLError is one
            log.warning("TLS: the changed certificate cannot be used; the old one stays: %s", _problem(error))
            return False
        self._seen = stamps
        log.info("TLS: reloaded the certificate in %s", self._cert_file)
        return True

    async def follow(self) -> None:
        """Check the files every `CHECK_EVERY_S`, without end."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self.reload()

    def _stamps(self) -> list[tuple[int, int, int]]:
        """Inode, modification time and size of each file: they change when a file is written or replaced."""
        files = [self._cert_file] if self._key_file is None else [self._cert_file, self._key_file]
        stats = [file.stat() for file in files]
        for file, found in zip(files, stats, strict=True):
            if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
                raise OSError(errno.EINVAL, "it is not a regular file", str(file))
            if found.st_size > MAX_BYTES:
                raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES} bytes", str(file))
        return [(found.st_ino, found.st_mtime_ns, found.st_size) for found in stats]


def _context(cert_file: Path, key_file: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 deprecates older versions
    # A key with a passphrase would make OpenSSL ask for it at the terminal.
    context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    return context


def _problem(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "not a PEM certificate with its matching key"
    return f"{error.filename}: {error.strerror}"
