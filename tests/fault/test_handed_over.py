"""A call that was handed over is not lost with the process that had it: the flow asks the next one."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import BridgeProcess, bridge_process, fetch, until

from pxbridge.app.lifecycle import LONGEST_ENDING_S
from pxbridge.calls import file_handover, handover
from pxbridge.calls.file_handover import FileHandOverStore
from pxbridge.calls.handover import HandOvers
from pxbridge.simulation.phone import Line, Script

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DESK = """
[personas.default]
keys = { "0" = { hand_over = ["+911", "+912"] } }
"""


def settings(folder: Path) -> Mapping[str, str]:
    file = folder / "pxbridge.toml"
    file.write_text(DESK)
    return {
        "PXBRIDGE_CONFIG": str(file),
        "PXBRIDGE_STATE_DIR": str(folder / "state"),
        "PXBRIDGE_KEEP_RECORDS": "false",
    }


async def ask(bridge: BridgeProcess, name: str, call_sid: str) -> tuple[int, str]:
    return await asyncio.to_thread(fetch, f"http://127.0.0.1:{bridge.port}/exotel/{name}?CallSid={call_sid}")


async def assert_still_handed_over(environ: Mapping[str, str], call_sid: str) -> None:
    async with bridge_process(environ=environ) as after:
        assert (await ask(after, "passthru", call_sid))[0] == 302
        _, body = await ask(after, "connect", call_sid)
        assert json.loads(body) == {"destination": {"numbers": ["+911", "+912"]}}
        assert (await ask(after, "passthru", "CA-other"))[0] == 200


async def test_a_call_that_is_handed_over_while_the_bridge_stops_is_told_before_and_after_the_restart(
    tmp_path: Path,
) -> None:
    environ = settings(tmp_path)
    async with bridge_process(environ=environ) as bridge:
        phone = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA1", dtmf=((3.0, "0"),)))
        bridge.signal(signal.SIGTERM)
        await until(lambda: phone.close_code is not None, "the call is over")
        assert phone.close_code == 1000
        await asyncio.sleep(1.0)  # as Exotel does before it asks
        assert (await ask(bridge, "passthru", "CA1"))[0] == 302
        assert await bridge.ends(LONGEST_ENDING_S) == 0
    await assert_still_handed_over(environ, "CA1")


async def test_a_bridge_that_is_killed_has_told_the_next_one_whom_it_handed_over(tmp_path: Path) -> None:
    environ = settings(tmp_path)
    async with bridge_process(environ=environ) as bridge:
        phone = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA1", dtmf=((1.0, "0"),)))
        await until(lambda: phone.close_code is not None, "the call is over")
        bridge.signal(signal.SIGKILL)
        await bridge.ends()
    await assert_still_handed_over(environ, "CA1")


# The file itself


class Clock:
    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


async def numbers_in(shelf: FileHandOverStore, call_sid: str) -> tuple[str, ...] | None:
    stored = await shelf.get(call_sid)
    assert stored is not None
    return stored.numbers


async def test_the_file_is_ours_alone_and_forgets_what_is_old_or_too_much(tmp_path: Path) -> None:
    clock = Clock()
    shelf = FileHandOverStore(tmp_path / "state", clock)
    await shelf.put("CA1", ["+911"])
    for file in (tmp_path / "state").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    clock.now_s += handover.KEPT_S - 1
    assert await numbers_in(shelf, "CA1") == ("+911",)
    clock.now_s += 1
    assert await shelf.get("CA1") is None
    await shelf.put("CA2", [])
    assert await numbers_in(shelf, "CA2") == ()
    await shelf.put("CA2", None)
    assert await numbers_in(shelf, "CA2") is None
    await shelf.close()


async def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_handover, "MAX_KEPT", 3)
    shelf = FileHandOverStore(tmp_path, Clock())
    for n in range(5):
        await shelf.put(f"CA{n}", [])
    assert [await shelf.get(f"CA{n}") is not None for n in range(5)] == [False, False, True, True, True]
    await shelf.close()


async def test_two_processes_in_one_folder_know_of_each_other(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    old, new = (HandOvers(loop.time, FileHandOverStore(tmp_path)) for _ in range(2))
    old.decide("CA1", ["+911"])
    await old.close()
    assert await new.look_up("CA1") == ("+911",)
    new.begin("CA1")
    assert await new.look_up("CA1") is None
    await new.close()


async def test_a_folder_that_cannot_be_written_costs_no_decision_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    calls = HandOvers(asyncio.get_running_loop().time, FileHandOverStore(tmp_path / "state"))
    for n in range(100):
        calls.begin(f"CA{n}")
    await asyncio.sleep(0.2)
    assert not caplog.messages, "nobody was handed over"
    calls.decide("CA1", ["+911"])
    calls.decide("CA2")
    assert await calls.look_up("CA1") == ("+911",)
    await until(lambda: calls._failing, "it was tried")
    assert await calls.look_up("CA2") == ()
    began_s = asyncio.get_running_loop().time()
    await calls.close()
    assert asyncio.get_running_loop().time() - began_s < handover.RETRY_S / 2, "the end is not held up"
    assert caplog.text.count("only this process knows them") == 1


@pytest.mark.parametrize("harm", ["file", "folder", "replaced"])
async def test_a_file_that_is_deleted_or_replaced_is_opened_anew_and_told_what_the_process_knows(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    calls = HandOvers(asyncio.get_running_loop().time, FileHandOverStore(folder))
    calls.decide("CA1", ["+911"])
    await until(lambda: not calls._unstored, "it is stored")
    if harm == "file":
        (folder / file_handover.FILE).unlink()
    elif harm == "folder":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "moved")
        folder.mkdir()
    assert await calls.look_up("CA1") == ("+911",)
    calls.decide("CA2", ["+912"])
    await calls.close()
    assert f"{folder / file_handover.FILE} was deleted or replaced; it is created again" in caplog.text
    after = HandOvers(asyncio.get_running_loop().time, FileHandOverStore(folder))
    assert [await after.look_up(call) for call in ("CA1", "CA2")] == [("+911",), ("+912",)]
    await after.close()


async def test_a_clock_that_was_ahead_for_a_moment_costs_no_decision(tmp_path: Path) -> None:
    clock = Clock()
    shelf = FileHandOverStore(tmp_path, clock)
    for n in range(20):
        await shelf.put(f"CA{n}", ["+911"])
    clock.now_s += 365 * 86_400.0
    await shelf.put("CA20", ["+911"])
    clock.now_s -= 365 * 86_400.0
    left = [n for n in range(21) if await shelf.get(f"CA{n}") is not None]
    assert len(left) >= 21 - file_handover.PURGED_AT_ONCE
    await shelf.put("CA20", ["+912"])
    assert await numbers_in(shelf, "CA20") == ("+912",), "a later change is later although the clock is not"
    await shelf.close()
