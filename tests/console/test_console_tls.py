"""The console over TLS, which browsers demand before they open a microphone for another machine."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from tests.fault.processes import bridge_process

from pxbridge.app.certificates import console_tls
from pxbridge.commands.processes import free_port
from pxbridge.console import client
from pxbridge.errors import ConfigError
from pxbridge.settings import check_access, load

if TYPE_CHECKING:
    from pathlib import Path

NAME = "console.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    issued = made.issue_cert(NAME)
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return made


async def test_pages_sockets_and_commands_work_over_tls(tmp_path: Path, authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    port = free_port()
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    login = "asha:correct-horse-battery"
    async with bridge_process(
        console_port=str(port),
        console_credentials=login,
        console_tls_cert_file=cert,
        console_tls_key_file=key,
    ) as bridge:
        assert bridge.said(f"https://127.0.0.1:{port}/")
        async with aiohttp.ClientSession(
            f"https://127.0.0.1:{port}", cookie_jar=aiohttp.CookieJar(unsafe=True)
        ) as session:
            secure = {"ssl": trusting, "server_hostname": NAME}
            as_json = {"user": "asha", "password": "correct-horse-battery"}
            answer = await session.post("/api/session", json=as_json, **secure)  # type: ignore[arg-type]
            assert answer.status == 204
            assert "Secure" in answer.headers["Set-Cookie"]
            cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
            async with session.ws_connect(
                "/api/live", headers=cookie, ssl=trusting, server_hostname=NAME
            ) as live:  # fmt: skip
                assert (await live.receive_json())["type"] == "snapshot"
            async with session.ws_connect(
                "/api/chat", headers=cookie, ssl=trusting, server_hostname=NAME
            ) as talk:  # fmt: skip
                kinds = set()
                while 0 not in kinds:
                    kinds.add((await talk.receive_bytes())[0])
            assert {0, 4} <= kinds
            for origin, status in ((f"https://127.0.0.1:{port}", 404), (f"http://127.0.0.1:{port}", 403)):
                answer = await session.post(
                    "/api/calls/end",
                    json={"call": "none"},
                    headers={**cookie, "Origin": origin},
                    ssl=trusting,
                    server_hostname=NAME,
                )
                assert answer.status == status, origin
        environ = {
            "PXBRIDGE_CONSOLE_PORT": str(port),
            "PXBRIDGE_CONSOLE_CREDENTIALS": login,
            "PXBRIDGE_CONSOLE_TLS_CERT_FILE": cert,
        }
        asked = load({}, environ).settings
        assert (await client.ask(asked, "/api/calls")).keys() == {"live", "recent"}


def test_a_wrong_pair_stops_the_start_and_names_the_setting(tmp_path: Path, authority: trustme.CA) -> None:
    other = trustme.CA().issue_cert(NAME).private_key_pem.bytes()
    (tmp_path / "key.pem").write_bytes(other)
    environ = {
        "PXBRIDGE_CONSOLE_TLS_CERT_FILE": str(tmp_path / "cert.pem"),
        "PXBRIDGE_CONSOLE_TLS_KEY_FILE": str(tmp_path / "key.pem"),
    }
    with pytest.raises(ConfigError, match=r"PXBRIDGE_CONSOLE_TLS_CERT_FILE.* no PEM certificate and key"):
        console_tls(load({}, environ))


def test_a_public_console_with_tls_is_not_warned_about() -> None:
    environ = {
        "PXBRIDGE_CONSOLE_HOST": "0.0.0.0",
        "PXBRIDGE_CONSOLE_CREDENTIALS": "asha:correct-horse-battery",
    }
    assert any("console_tls_cert_file".upper() in note for note in check_access(load({}, environ)))
    assert check_access(load({}, environ | {"PXBRIDGE_CONSOLE_TLS_CERT_FILE": "x.pem"})) == []
