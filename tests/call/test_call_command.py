"""`pxbridge call` as its user meets it: what is printed, written and returned."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import io
import json
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
import trustme
from rich.console import Console
from tests.simulated import VECTORS
from websockets.asyncio.server import ServerConnection, serve

from pxbridge.commands import call
from pxbridge.commands.report import EXIT_BAD, EXIT_BROKEN, EXIT_SILENT
from pxbridge.errors import InputError
from pxbridge.simulation.phone import Clock
from pxbridge.wav import read_wav

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.http11 import Request, Response

Handler = Callable[[ServerConnection], Awaitable[None]]
SPEECH = str(VECTORS / "speech_24k.wav")
HEARD = (0, EXIT_BAD)
"""The agent was heard. A busy machine makes gaps in calls that are faster than time; `test_call_report` has
virtual time."""


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    call.add_arguments(parser)
    return parser.parse_args(words)


async def place(handler: Handler, *words: str, terminal: bool = False, speed: float = 20) -> tuple[int, str]:
    out = Console(file=io.StringIO(), width=100, force_terminal=terminal, highlight=False)
    async with serve(handler, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/exotel"
        status = await call.run(arguments("--url", url, *words), out, Clock(speed))
    return status, out.file.getvalue()  # type: ignore[attr-defined]


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        event = json.loads(message)
        if event["event"] == "media":
            await ws.send(json.dumps({"event": "media", "media": {"payload": event["media"]["payload"]}}))
        elif event["event"] == "stop":
            return


async def silent(ws: ServerConnection) -> None:
    async for _ in ws:
        pass


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_call_is_told_measured_and_written(tmp_path: Path, terminal: bool) -> None:
    heard = tmp_path / "heard.wav"
    words = ("--wav", SPEECH, "--speak-at", "0", "--out", str(heard), "--plot", str(tmp_path / "call.png"))
    status, text = await place(echo, *words, terminal=terminal, speed=10)
    assert status in HEARD
    for line in (
        "calling ws://127.0.0.1",
        "you speak",
        "you hang up",
        " call: ",
        "your words",
        "heard: ",
    ):
        assert line in text
    sound = read_wav(heard)
    assert sound.rate_hz == 8000
    assert sound.duration_s > 7
    assert abs(sound.samples).max() > 0.1
    assert (tmp_path / "call.png").exists()


async def test_a_fault_of_the_view_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: call.View) -> None:
        raise ZeroDivisionError("told by a test")

    monkeypatch.setattr(call.View, "show", fail)
    with pytest.raises(ZeroDivisionError, match="told by a test"):
        await place(echo, "--seconds", "1", "--wav", SPEECH)


async def test_without_a_file_a_shipped_sentence_is_said() -> None:
    status, text = await place(echo, "--speak-at", "0", "--rate", "24000", "-v")
    assert status in HEARD
    assert "24 kHz" in text


async def test_a_call_without_a_voice_has_a_status_of_its_own() -> None:
    status, text = await place(silent, "--seconds", "3", "--wav", SPEECH)
    assert status == EXIT_SILENT
    assert "\na bad call: no voice was heard\n" in text
    assert "first voice  never" in text


async def test_a_call_that_is_broken_off_says_with_what() -> None:
    async def full(ws: ServerConnection) -> None:
        await ws.close(1013, "no engine is free")

    status, text = await place(full)
    assert status == EXIT_BROKEN
    assert "a bad call: the bridge ended the call with an error (1013: no engine is free)\n" in text


async def test_without_a_server_the_call_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    status = await call.run(
        arguments("--url", "ws://a:secret@127.0.0.1:1/exotel"), Console(file=io.StringIO())
    )
    error = capsys.readouterr().err
    assert status == call.EXIT_UNREACHABLE
    assert "Connection refused" in error
    assert "`pxbridge` in another terminal starts it" in error
    assert "secret" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--url", "http://h/exotel"],
            "http://h/exotel is not a ws:// or wss:// URL; write ws:// instead",
        ),
        (["--url", "https://h/exotel"], "write wss:// instead of https://"),
        (["--url", "voice.example.com/exotel"], "is not a ws:// or wss:// URL"),
        (["--url", "ws://[1/exotel"], "is not a ws:// or wss:// URL"),
        (["--press", "5@nan"], "--press 5@nan is not a key"),
        (["--press", "5@-1"], "--press 5@-1 is not a key"),
        (["--ca", __file__], f"--ca {__file__}: it holds no certificate in PEM form"),
        (["--ca", "/no/such.pem"], "--ca /no/such.pem: No such file or directory"),
    ],
)
async def test_an_argument_that_no_call_can_have_is_told_before_the_call(words: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        await call.run(arguments(*words), Console(file=io.StringIO()))
    assert told in str(refused.value)


async def test_a_server_whose_tls_fails_is_not_asked_whether_it_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/exotel"
        status = await call.run(arguments("--url", url), Console(file=io.StringIO()))
    error = capsys.readouterr().err
    assert status == call.EXIT_UNREACHABLE
    assert "does not speak TLS: this port takes ws:// calls" in error
    assert "is the server running" not in error


async def test_a_server_that_speaks_no_websocket_refuses_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnot here")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        status = await call.run(arguments("--url", url), Console(file=io.StringIO()))
    assert status == call.EXIT_REFUSED
    assert "HTTP 404 Not Found: not here" in capsys.readouterr().err


TOKEN = "d.ffffffff..AAAAAAAAAAAAAAAA.0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"


@pytest.mark.parametrize("words", [[], ["--json"], ["-v"]])
@pytest.mark.parametrize("lets_in", [True, False])
async def test_a_token_is_shown_nowhere(
    words: list[str], lets_in: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async def close(ws: ServerConnection) -> None:
        await ws.close(1011, f"no persona at /exotel/t/{TOKEN}")

    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.FORBIDDEN, f"not with {request.path}")

    out = Console(file=io.StringIO(), width=100)
    async with serve(close, "127.0.0.1", 0, process_request=None if lets_in else refuse) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/exotel/t/{TOKEN}"
        status = await call.run(arguments("--url", url, *words), out, Clock(20))
    output = out.file.getvalue()  # type: ignore[attr-defined]
    told = output.replace(r"\u2026", "…") + capsys.readouterr().err
    assert TOKEN not in told
    assert "/exotel/t/…" in told
    if lets_in:
        assert status == EXIT_BROKEN
    else:
        assert status == call.EXIT_REFUSED
        assert "`pxbridge token` makes one" in told
    if words == ["--json"]:
        assert json.loads(output)["good"] is False


async def test_a_long_line_is_not_broken_in_a_pipe() -> None:
    async def close(ws: ServerConnection) -> None:
        await ws.close(1011, "for a reason that is long, but not so long that it does not fit into a frame")

    _, text = await place(close)
    assert "that it does not fit into a frame)\n" in text


LAST_YEAR = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365)


@pytest.mark.parametrize(
    ("host", "until", "problem"),
    [
        ("127.0.0.1", None, "from an unknown authority"),
        ("voice.example.com", None, "for another"),
        ("127.0.0.1", LAST_YEAR, "has expired"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_told_by_what_is_wrong_with_it(
    host: str,
    until: datetime.datetime | None,
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority = trustme.CA()
    began = None if until is None else until - datetime.timedelta(days=1)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, not_before=began, not_after=until).configure_cert(server_tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca = [] if problem.endswith("authority") else ["--ca", str(tmp_path / "ca.pem")]
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_tls
    ) as server:
        url = f"wss://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/exotel"
        status = await call.run(arguments("--url", url, *ca), Console(file=io.StringIO()))
    assert status == call.EXIT_UNREACHABLE
    error = capsys.readouterr().err
    assert problem in error and "certificate" in error and "secret" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--wav", "nowhere.wav"], "nowhere.wav: No such file"),
        (["--chunk-ms", "0"], "--chunk-ms 0 is not between 1 and 2000"),
        (["--press", "A@3"], "--press A@3 is not a key"),
        (["--press", "5"], "--press 5 is not a key"),
        (["--network", "stall"], "network 'stall'"),
        (["--out", "/no/where/heard.wav"], "--out /no/where/heard.wav: there is no such folder"),
        (["--out", "/"], "--out /: Is a directory"),
        (["--plot", "/no/where/call.png"], "--plot /no/where/call.png: there is no such folder"),
        (["--plot", "call.nope"], "call.nope: the name of a plot ends in .png"),
        (["--plot", "call"], "call: the name of a plot ends in .png"),
        (["--seconds", "-1"], "--seconds -1 is not a time"),
        (["--speak-at", "nan"], "--speak-at nan is not a time"),
        (["--ca", "/no/ca.pem"], "--ca /no/ca.pem: No such file"),
    ],
)
async def test_a_wrong_argument_stops_before_the_call(words: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        await call.run(arguments(*words), Console(file=io.StringIO()))
