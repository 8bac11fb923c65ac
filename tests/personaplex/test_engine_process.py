"""The engine's process: what stops its start, how it ends, and the certificate that it makes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from tests.personaplex.fake_model import FakeStepper
from tests.personaplex.rig import PERSONA, Client, FakeText, FakeTokenizer, FakeVoices, http, voice
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pxbridge.engines.address import EngineAddress, Pinned
from pxbridge.engines.client import open_session
from pxbridge.errors import ConfigError, EngineUntrusted, InputError
from pxbridge.personaplex.certificate import certificate_in
from pxbridge.personaplex.config import LmConfig, MimiConfig
from pxbridge.personaplex.memory import footprint
from pxbridge.personaplex.personas import FilePersonas
from pxbridge.personaplex.serve import EXIT_DEVICE_FAILED, Loaded, Options, prepare, serve
from pxbridge.personaplex.slots import plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE_S = 20.0


def loaded(stepper: FakeStepper) -> Loaded:
    personas = FilePersonas(FakeVoices(), FakeTokenizer(), stepper.longest_prompt)
    return Loaded("fake", stepper, personas, FakeText, lambda: {"free": 5})


class Running:
    """A served engine: where it is, and what becomes of it."""

    def __init__(self, url: str, done: asyncio.Task[int]) -> None:
        self.url = url
        self.port = int(url.split(":")[2].split("/")[0])
        self.done = done

    async def call(self) -> Client:
        client = Client(await connect(f"{self.url}?{urlencode(PERSONA)}", compression=None))
        await client.live()
        return client

    async def ended(self) -> int:
        return await asyncio.wait_for(self.done, PATIENCE_S)


@contextlib.asynccontextmanager
async def running(options: Options, stepper: FakeStepper | None = None) -> AsyncIterator[Running]:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done = asyncio.create_task(serve(loaded(stepper or FakeStepper(4)), prepare(options), url.set_result))
    try:
        yield Running(await asyncio.wait_for(url, PATIENCE_S), done)
    finally:
        if not done.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait([done], timeout=PATIENCE_S)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# What stops the start.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "engine.example"])
def test_a_public_address_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="PXBRIDGE_ENGINE_TOKEN"):
        prepare(Options(host=host, port=0))


@pytest.mark.parametrize(
    "options", [Options(host="0.0.0.0", token="x"), Options(host="0.0.0.0", allow_anonymous=True)]
)
def test_a_token_or_consent_opens_it(options: Options) -> None:
    prepare(replace(options, port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
def test_loopback_needs_none(host: str) -> None:
    prepare(Options(host=host, port=0))


def test_a_port_that_is_taken_is_told_before_a_checkpoint_is_read() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="in use"):
            prepare(Options(port=other.getsockname()[1]))


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_told_as_that_and_not_as_a_port(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--host \(command line\): {host} is no address of this machine"):
        prepare(Options(host=host, port=0, allow_anonymous=True))


def test_folders_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        prepare(Options(port=0, static=tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--record-input"):
        prepare(Options(port=0, record_input=tmp_path / "file"))


# Its end.


async def test_sigterm_lets_conversations_end_and_takes_no_new_ones() -> None:
    async with running(Options(port=0)) as engine:
        client = await engine.call()
        await client.say(voice(1))
        stop()
        with pytest.raises((InvalidStatus, OSError)):
            for _ in range(1000):
                await (await connect(f"{engine.url}?{urlencode(PERSONA)}")).close()
        await client.say(voice(2))
        await client.until(lambda: client.heard_frames == 3)
        assert not engine.done.done()
        await client.hang_up()
        assert await engine.ended() == 0


async def test_on_loopback_a_page_that_came_by_a_strangers_name_may_not_talk() -> None:
    async with running(Options(port=0)) as engine:

        async def dial(name: str) -> None:
            authority = f"{name}:{engine.port}"
            url = f"ws://{authority}/api/chat?{urlencode(PERSONA)}"
            page: Any = f"http://{authority}"
            await (await connect(url, host="127.0.0.1", port=engine.port, origin=page)).close()

        await dial("localhost")
        with pytest.raises(InvalidStatus, match="403"):
            await dial("evil.example")


async def test_a_second_signal_ends_it_at_once() -> None:
    async with running(Options(port=0)) as engine:
        client = await engine.call()
        stop()
        async with asyncio.timeout(PATIENCE_S):
            while (await http(engine.port, "/readyz"))[0] != 503:
                pass
        stop()
        assert await client.closed() == (1001, "the engine ends")
        assert await engine.ended() == 0


async def test_conversations_that_do_not_end_in_time_are_ended() -> None:
    async with running(Options(port=0, drain_s=0.05)) as engine:
        client = await engine.call()
        stop()
        assert await client.closed() == (1001, "the engine ends")
        assert await engine.ended() == 0


async def test_a_fault_of_the_device_ends_all_and_the_process_with_a_status(uncaptured: None) -> None:
    stepper = FakeStepper(4)
    async with running(Options(port=0), stepper) as engine:
        clients = [await engine.call() for _ in range(3)]
        stepper.raises = RuntimeError("CUDA error: device-side assert triggered")
        await clients[1].say(voice(1))
        for client in clients:
            assert await client.closed() == (1011, "the engine's device failed")
        assert await engine.ended() == EXIT_DEVICE_FAILED


async def test_a_model_that_does_not_warm_up_is_a_fault_too(uncaptured: None) -> None:
    class Broken(FakeStepper):
        def warm_up(self) -> None:
            raise RuntimeError("out of memory")

    status = await asyncio.wait_for(serve(loaded(Broken()), prepare(Options(port=0))), PATIENCE_S)
    assert status == EXIT_DEVICE_FAILED


async def test_it_can_be_stopped_while_it_warms_up() -> None:
    go = threading.Event()

    class Slow(FakeStepper):
        def warm_up(self) -> None:
            stop()
            go.wait(PATIENCE_S)

    async def let_go() -> None:
        await asyncio.sleep(0.2)
        go.set()

    letting = asyncio.create_task(let_go())
    assert await asyncio.wait_for(serve(loaded(Slow()), prepare(Options(port=0))), PATIENCE_S) == 0
    await letting


# TLS.


async def test_it_makes_a_certificate_and_a_bridge_trusts_it_by_its_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    certificate = certificate_in(folder, "127.0.0.1")
    assert certificate.made
    assert ((folder / "key.pem").stat().st_mode & 0o777) == 0o600
    async with running(Options(port=0, ssl=folder)) as engine:
        trusted = EngineAddress(engine.url, Pinned(certificate.sha256))
        session = await open_session(trusted, "NATF0.pt", "You are kind.")
        session.close()
        await session.wait_closed()
        other = EngineAddress(engine.url, Pinned("0" * 64))
        with pytest.raises(EngineUntrusted, match=certificate.sha256):
            await open_session(other, "NATF0.pt", "You are kind.")
        checked = ssl.create_default_context(cafile=folder / "cert.pem")
        async with connect(f"{engine.url}?{urlencode(PERSONA)}", ssl=checked) as client:
            assert await client.recv() == b"\x00"


def test_a_certificate_that_is_there_is_kept(tmp_path: Path) -> None:
    first, second = certificate_in(tmp_path, "h"), certificate_in(tmp_path, "h")
    assert (first.made, second.made) == (True, False)
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("x", None, "key.pem is missing"),
        (None, "x", "cert.pem is missing"),
        ("x", "y", "no PEM certificate"),
    ],
)
def test_half_a_certificate_or_none_at_all_is_told(
    cert: str | None, key: str | None, told: str, tmp_path: Path
) -> None:
    if cert is not None:
        (tmp_path / "cert.pem").write_text(cert)
    if key is not None:
        (tmp_path / "key.pem").write_text(key)
    with pytest.raises(ConfigError, match=told):
        certificate_in(tmp_path, "h")


# How many slots.


def planned(free_gb: float, **how: object) -> Callable[[], object]:
    weights = how.pop("weights", "full")
    parts = footprint(LmConfig(), MimiConfig(), context=3000, weights=weights)  # type: ignore[arg-type]
    return lambda: plan(parts, round(free_gb * 1e9), context=3000, device="cuda", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free_gb", "weights", "slots"),
    [
        (25.2, "full", 4),
        (33.5, "full", 9),
        (47.6, "full", 17),
        (84.5, "full", 41),
        (150.0, "full", 81),
        (25.2, "int8", 9),
    ],
)
def test_slots_are_what_memory_holds(free_gb: float, weights: str, slots: int) -> None:
    found = planned(free_gb, weights=weights)()
    assert abs(found.slots - slots) <= 1  # type: ignore[attr-defined]
    assert f"{free_gb:.1f} GB free" in found.arithmetic  # type: ignore[attr-defined]


def test_what_does_not_fit_is_told_with_its_arithmetic() -> None:
    with pytest.raises(InputError, match=r"--slots auto: cuda: 12\.0 GB free - .* fit"):
        planned(12.0)()
    with pytest.raises(InputError, match=r"--slots 100: .*: 4[0-9] fit"):
        planned(84.5, slots=100)()
    assert planned(84.5, slots=32)().slots == 32  # type: ignore[attr-defined]


LOADS_FOR_EVER = """
import argparse, asyncio, signal, time
from rich.console import Console
from pxbridge.commands import engine_serve

def load(*_):
    print("loading", flush=True)
    while True:
        time.sleep(1)

engine_serve._load = load
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as for the first process of a container: nothing by default
parser = argparse.ArgumentParser()
engine_serve.add_arguments(parser)
asyncio.run(engine_serve.run(parser.parse_args(["--port", "0"]), Console()))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_engine_that_still_reads_its_checkpoint(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOADS_FOR_EVER), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE_S) == b"loading\n"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 128 + number
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
