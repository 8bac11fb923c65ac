"""How a bridge process ends, is changed and starts again, with calls on it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from tests.fault.processes import (
    ROOT,
    BridgeProcess,
    bridge_process,
    engine_process,
    engine_program,
    program,
    until,
)

from pxbridge.app.lifecycle import CLOSE_TIMEOUT_S, LONGEST_ENDING_S
from pxbridge.errors import CallRefused
from pxbridge.settings import Settings
from pxbridge.simulation.phone import Phone, Script, place_call


def at_once_s(bridge: BridgeProcess) -> float:
    """What an end at once may take of the 600 s that calls may go on: the haste, and twice the start.

    How long calls and phones are given exactly is in `tests/call/test_stopping.py`, in virtual time.
    """
    return CLOSE_TIMEOUT_S + 2.0 * bridge.began_in_s + 1.0


async def test_sigterm_takes_no_new_call_and_lets_the_live_ones_go_on() -> None:
    async with (
        engine_process(slots=4) as engine,
        bridge_process(engines=engine, engine_capacity="4", drain_s="600") as bridge,
    ):
        phone = await bridge.call()
        bridge.signal(signal.SIGTERM)
        await until(lambda: bridge.ready() == (503, "draining: no new calls\n"), "it is not ready")
        with pytest.raises(CallRefused):
            await place_call(bridge.url, Phone(Script(hang_up_at_s=1.0)))
        heard = phone.media_received
        await until(lambda: phone.media_received > heard + 5, "the live call goes on")
        assert bridge.process.returncode is None
        bridge.phones[0].cancel()  # the caller hangs up
        assert await bridge.ends() == 0
    assert "Traceback" not in bridge.log


async def test_after_the_limit_live_calls_end_with_service_restart() -> None:
    async with (
        engine_process(slots=2) as engine,
        bridge_process(engines=engine, engine_capacity="2", drain_s="0.2") as bridge,
    ):
        phones = [await bridge.call(), await bridge.call()]
        bridge.signal(signal.SIGTERM)
        assert await bridge.ends() == 0
        await until(lambda: all(task.done() for task in bridge.phones), "the phones know")
    assert [phone.close_code for phone in phones] == [1012, 1012]
    assert all(phone.player.depth_s == 0.0 for phone in phones), "words were cut"
    assert "Traceback" not in bridge.log


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(first: signal.Signals) -> None:
    async with bridge_process(drain_s="600") as bridge:
        await bridge.call()
        bridge.signal(first)
        await until(lambda: bridge.said("stopping: 1 call "), "it drains")
        bridge.signal(signal.SIGHUP)  # a reload is no second signal
        bridge.signal(signal.SIGTERM)
        told_s = time.monotonic()
        assert await bridge.ends() == 0
        assert time.monotonic() - told_s < at_once_s(bridge)
    assert bridge.said("ending at once") and "Traceback" not in bridge.log


async def test_sighup_changes_personas_and_engines_and_no_call_notices(tmp_path: Path) -> None:
    file = tmp_path / "pxbridge.toml"
    async with engine_process() as one, engine_process() as other:
        file.write_text(f'engines = ["{one}"]\n[personas.a]\ntext_prompt = "You are Asha."\n')
        async with bridge_process(config=str(file)) as bridge:
            first = await bridge.call()
            file.write_text(f'engines = ["{other}"]\nport = 1\n[personas.b]\ntext_prompt = "You are Ravi."\n')
            bridge.signal(signal.SIGHUP)
            told = "reloaded: changed settings: engines; persona a: removed; persona b: new"
            await until(lambda: bridge.said(told), "it reloads")
            await bridge.call()  # there is room, on the new engine
            assert bridge.said(f'"engine": "{other}"')
            heard = first.media_received
            await until(lambda: first.media_received > heard + 5, "the first call goes on")
            assert first.close_code is None


async def test_a_bad_file_keeps_the_old_settings_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text('[personas.a]\ntext_prompt = "You are Asha."\n')
    async with bridge_process(config=str(file)) as bridge:
        phone = await bridge.call()
        file.write_text('[personas.a]\ntext_promt = "You are Asha."\n')
        bridge.signal(signal.SIGHUP)
        told = f"reload: personas.a.text_promt ({file}): no such key; did you mean text_prompt?; the settings"
        await until(lambda: bridge.said(told), "it says what is wrong")
        file.write_text("this is no TOML")
        bridge.signal(signal.SIGHUP)
        await until(lambda: bridge.said("is not a TOML file"), "it says what is wrong")
        heard = phone.media_received
        await until(lambda: phone.media_received > heard + 5, "the call goes on")
        await bridge.call()
        assert bridge.ready()[0] == 200


async def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text("max_calls = 7")
    async with bridge_process(config=str(file)) as bridge:
        file.write_text('max_calls = 8\nvoice_prompt = "NATM1.pt"\nengines = ["ws://127.0.0.1:1"]')
        bridge.signal(signal.SIGHUP)
        await until(lambda: bridge.said("changed settings: voice_prompt"), "it reloads")
        await until(lambda: bridge.said("a change of engines, max_calls needs a restart"), "it says so")
        await bridge.call()


async def test_a_killed_bridge_leaves_nothing_that_hinders_the_next() -> None:
    async with (
        engine_process(slots=2) as engine,
        bridge_process(engines=engine, engine_capacity="2") as first,
    ):
        await first.call()
        await first.call()
        first.signal(signal.SIGKILL)
        assert await first.ends() == -signal.SIGKILL
        # At once, on the same port, with sockets of the dead one still in TIME_WAIT; and the engine's slots
        # are free, since the kernel closed what was killed.
        async with bridge_process(first.port, engines=engine, engine_capacity="2") as second:
            await second.call()
            await second.call()


async def test_a_phone_that_vanishes_without_a_word_holds_nothing_up() -> None:
    async with (
        engine_process(slots=2) as engine,
        bridge_process(engines=engine, engine_capacity="2", drain_s="0") as bridge,
    ):
        await bridge.call()
        # Handshakes that never end, and a peer that is gone: reset, half-open, and silent.
        silent = socket.create_connection(("127.0.0.1", bridge.port))
        half = socket.create_connection(("127.0.0.1", bridge.port))
        half.sendall(b"GET /exotel HTTP/1.1\r\nHost: x\r\n")
        half.shutdown(socket.SHUT_WR)
        reset = socket.create_connection(("127.0.0.1", bridge.port))
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        try:
            await bridge.call()
            bridge.signal(signal.SIGTERM)
            assert await bridge.ends() == 0
        finally:
            silent.close()
            half.close()
    assert "Traceback" not in bridge.log


async def test_a_phone_that_does_not_answer_the_close_is_not_waited_for() -> None:
    async with bridge_process(drain_s="600") as bridge:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        writer.write(
            f"GET /exotel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b"101" in await reader.readline()
        bridge.signal(signal.SIGTERM)
        await until(lambda: bridge.said("stopping: 1 call "), "it drains")
        bridge.signal(signal.SIGTERM)
        told_s = time.monotonic()
        assert await bridge.ends() == 0
        assert time.monotonic() - told_s < at_once_s(bridge)
        writer.close()
    assert "Traceback" not in bridge.log


async def test_peers_that_are_frozen_hold_up_neither_other_calls_nor_the_end() -> None:
    async with (
        engine_process(slots=1) as good,
        engine_program(slots=1) as frozen,
        bridge_process(engines=f"{frozen.url} {good}", drain_s="600") as bridge,
        program("pxbridge", "call", "--url", bridge.url, "--seconds", "600") as phone,
    ):
        await until(lambda: bridge.log.count('"call live"') == 1, "the first call is live")
        assert bridge.said(f'"engine": "{frozen.url}"'), "it has the engine that is to freeze"
        other = await bridge.call()
        for half_open in (phone, frozen):  # alive for TCP, and silent
            half_open.signal(signal.SIGSTOP)
        heard = other.media_received
        await until(lambda: other.media_received > heard + 10 or other.close_code, "the other goes on")
        bridge.signal(signal.SIGTERM)
        await until(lambda: bridge.said("stopping: "), "it drains")
        bridge.signal(signal.SIGTERM)
        told_s = time.monotonic()
        assert await bridge.ends() == 0
        assert time.monotonic() - told_s < at_once_s(bridge)
    assert "Traceback" not in bridge.log


async def test_systemd_hears_that_it_is_ready_turns_reloads_and_stops(tmp_path: Path) -> None:
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)

        def heard(text: str) -> bool:
            while True:
                try:
                    told.append(ear.recv(4096).decode())
                except BlockingIOError:
                    return any(text in message for message in told)

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        async with bridge_process(environ=environ) as bridge:
            await until(lambda: heard("READY=1\nSTATUS=takes calls at ws://"), "READY")
            await until(lambda: heard("WATCHDOG=1"), "WATCHDOG")
            told.clear()
            bridge.signal(signal.SIGHUP)
            await until(lambda: heard("RELOADING=1\nMONOTONIC_USEC="), "RELOADING")
            await until(lambda: heard("READY=1"), "READY again")
            await until(lambda: heard("WATCHDOG=1"), "WATCHDOG goes on")
            bridge.signal(signal.SIGTERM)
            assert await bridge.ends() == 0
            assert heard("STOPPING=1") and heard("EXTEND_TIMEOUT_USEC=98500000")


def test_systemd_gives_the_end_the_time_that_it_takes() -> None:
    unit = (ROOT / "deploy/systemd/pxbridge.service").read_text()
    stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1])  # type: ignore[index]
    assert stop_s >= Settings().drain_s + LONGEST_ENDING_S
    assert "Type=notify\n" in unit and re.search(r"^WatchdogSec=\d+$", unit, re.M)


async def test_a_hanging_loop_is_silent_towards_systemd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)

        def drained() -> int:
            count = 0
            while True:
                try:
                    count += b"WATCHDOG=1" in ear.recv(4096)
                except BlockingIOError:
                    return count

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}
        async with bridge_process(environ=environ) as bridge:
            await until(drained, "WATCHDOG")
            bridge.signal(signal.SIGSTOP)
            stat = Path(f"/proc/{bridge.process.pid}/stat")
            await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
            drained()
            looked_until_s = time.monotonic() + 0.3  # five of its periods; being silent takes time
            await until(lambda: time.monotonic() > looked_until_s, "time has passed")
            assert drained() == 0
            bridge.signal(signal.SIGCONT)
            await until(drained, "WATCHDOG again")
