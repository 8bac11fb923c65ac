"""TLS of the telephony port itself: who may speak it, and a certificate that is renewed under live calls."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import warnings
from typing import TYPE_CHECKING

import pytest
import trustme
from rich.console import Console
from tests import virtual_time
from tests.exotel_server import listen
from websockets.asyncio.client import connect

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.errors import ConfigError
from pxbridge.telephony.tls import CHECK_EVERY_S, ServingTls

if TYPE_CHECKING:
    from pathlib import Path

    from pxbridge.telephony.server import Arrival, TelephonyServer

NAME = "voice.example.com"


class Files:
    """A certificate and its key in files, as a renewing program writes them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.authority = trustme.CA()
        self._renewals = 0
        self.serial = self.renew()

    def renew(self) -> int:
        """Write a new certificate; its serial number."""
        issued = self.authority.issue_cert(NAME)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        # As if some time had passed: a file system may tell no times apart that are so close.
        self._renewals += 1
        for file in (self.cert, self.key):
            os.utime(file, (self._renewals, self._renewals))
        self.serial = _serial(self.cert.read_text())
        return self.serial


def _serial(pem: str) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def echo(arrival: Arrival) -> None:
    arrival.socket.on_message = lambda payload, is_text: arrival.socket.send(payload, text=is_text)
    await arrival.socket.wait_closed()


def trusting(files: Files) -> ssl.SSLContext:
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    return context


def dial(listener: TelephonyServer, context: ssl.SSLContext) -> connect:
    return connect(f"wss://127.0.0.1:{listener.port}/exotel", ssl=context, server_hostname=NAME)


async def served_serial(listener: TelephonyServer, files: Files) -> int:
    async with dial(listener, trusting(files)) as phone:
        certificate = phone.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return _serial(ssl.DER_cert_to_PEM_cert(certificate))


async def test_a_renewed_certificate_holds_for_new_calls_and_live_ones_stay(files: Files) -> None:
    tls = ServingTls(files.cert, files.key)
    async with (
        listen(echo, "127.0.0.1", 0, ssl=tls.context) as listener,
        dial(listener, trusting(files)) as live,
    ):
        before = files.serial
        assert await served_serial(listener, files) == before
        assert not tls.reload()
        renewed = files.renew()
        assert tls.reload()
        assert await served_serial(listener, files) == renewed != before
        await live.send("still here")
        assert await live.recv() == "still here"


async def test_files_that_do_not_fit_together_change_nothing_until_they_do(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ServingTls(files.cert, files.key)
    async with listen(echo, "127.0.0.1", 0, ssl=tls.context) as listener:
        before, old_key = files.serial, files.key.read_bytes()
        renewed, new_key = files.renew(), files.key.read_bytes()
        files.key.write_bytes(old_key)
        assert not tls.reload()
        assert "the old one stays" in caplog.text
        assert await served_serial(listener, files) == before
        files.cert.rename(files.cert.with_suffix(".moved"))
        assert not tls.reload()
        files.cert.with_suffix(".moved").rename(files.cert)
        files.key.write_bytes(new_key)
        assert tls.reload()
        assert await served_serial(listener, files) == renewed


def test_changes_are_noticed_by_themselves(files: Files) -> None:
    async def main() -> bool:
        tls = ServingTls(files.cert, files.key)
        following = asyncio.create_task(tls.follow())
        files.renew()
        await asyncio.sleep(CHECK_EVERY_S + 0.1)
        following.cancel()
        return tls.reload()

    assert not virtual_time.run(main()), "it has been noticed already"


async def test_old_tls_and_no_tls_get_no_answer(files: Files) -> None:
    async with listen(echo, "127.0.0.1", 0, ssl=ServingTls(files.cert, files.key).context) as listener:
        old = trusting(files)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await dial(listener, old)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()
        assert await served_serial(listener, files) == files.serial


@pytest.mark.parametrize(
    ("cert", "key", "setting", "problem"),
    [
        ("cert.pem", None, "--tls-cert-file", "set PXBRIDGE_TLS_KEY_FILE too"),
        ("cert.pem", "cert.pem", "--tls-cert-file", "belong together"),
        ("nothing.pem", "key.pem", "--tls-cert-file", "cannot read"),
        ("cert.pem", "nothing.pem", "--tls-key-file", "cannot read"),
    ],
)
async def test_files_that_cannot_serve_tls_stop_the_start(
    files: Files, tmp_path: Path, cert: str, key: str | None, setting: str, problem: str
) -> None:
    flags = {"port": 0, "tls_cert_file": str(tmp_path / cert)}
    if key is not None:
        flags["tls_key_file"] = str(tmp_path / key)
    with pytest.raises(ConfigError) as caught:
        await lifecycle.run(settings.load(flags, {}), Console(file=io.StringIO()))
    assert caught.value.setting == setting
    assert problem in caught.value.problem
