"""What is left on the disk when a bridge is killed, and what becomes of calls when there is no room on it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
import wave
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.fault.processes import bridge_process, until
from tests.fault.scene import longest_gap_s, scene

from pxbridge.records import database
from pxbridge.records.database import Query

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

WAV_HEADER_BYTES = 44
SECOND_BYTES = 2 * 2 * 8000


def recording_bridge(folder: Path) -> Any:
    """A bridge that records each call, with its state in `folder`."""
    return bridge_process(
        environ={"PXBRIDGE_CONFIG": str(recorded_by_default(folder))}, state_dir=str(folder)
    )


def recorded_by_default(folder: Path) -> Path:
    """A file of settings by which every call is recorded."""
    config = folder / "pxbridge.toml"
    config.write_text("[personas.default]\nrecord = true\n")
    return config


def recordings(folder: Path) -> list[Path]:
    return sorted((folder / database.RECORDINGS).glob("*.wav"))


def calls(folder: Path) -> list[dict[str, Any]]:
    if not (folder / database.FILE).exists():
        return []
    with closing(database.open_database(folder / database.FILE)) as connection:
        return database.find(connection, Query())


async def test_sigkill_leaves_a_recording_that_plays_and_a_record_that_says_so(tmp_path: Path) -> None:
    async with recording_bridge(tmp_path) as bridge:
        phone = await bridge.call()
        await until(
            lambda: recordings(tmp_path) and recordings(tmp_path)[0].stat().st_size > 3 * SECOND_BYTES,
            "three seconds are recorded",
        )
        await until(lambda: calls(tmp_path), "there is a record")
        spoken_s = phone.spoken_s
        bridge.signal(signal.SIGKILL)
        assert await bridge.ends() == -signal.SIGKILL
        await until(lambda: phone.close_code is not None, "the caller hears that the line is dead")
    assert phone.close_code == 1006
    (file,) = recordings(tmp_path)
    with wave.open(str(file)) as recorded:
        assert recorded.getnchannels() == 2
        assert recorded.getnframes() > 3 * 8000
        log.info(f"{recorded.getnframes() / 8000:.1f} s are recorded of {spoken_s:.1f} s")
        pcm = np.frombuffer(recorded.readframes(recorded.getnframes()), np.int16)
    assert np.abs(pcm[1::2]).max() > 1000, "the agent's greeting"
    assert [call["outcome"] for call in calls(tmp_path)] == ["live"]
    async with recording_bridge(tmp_path):
        await until(lambda: calls(tmp_path)[0]["outcome"] == database.CUT_OFF, "the next bridge knows")
    assert calls(tmp_path)[0]["recording"] == file.name


async def test_old_recordings_are_deleted_whether_or_not_records_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / database.RECORDINGS
    folder.mkdir()
    old_s = time.time() - 91 * 86_400
    for keep_records in ("false", "true"):
        old, new = folder / "old.wav", folder / "new.wav"
        for file in (old, new):
            file.write_bytes(b"RIFF")
        os.utime(old, (old_s, old_s))
        async with bridge_process(state_dir=str(tmp_path), keep_records=keep_records):
            await until(lambda: not (folder / "old.wav").exists(), f"records kept: {keep_records}")
            assert new.exists()


async def test_a_full_disk_costs_the_recording_and_not_the_call(tmp_path: Path) -> None:
    config = str(recorded_by_default(tmp_path))
    async with scene(good_engines=1, slots=2, config=config, state_dir=str(tmp_path)) as (stage, neighbour):
        bridge = stage.bridge
        # No file may grow beyond this: what a write then gets is what a full disk gives it, or nearly.
        size = 40_000
        neighbour.harm_begins()
        resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        caller = await stage.call()
        await until(lambda: bridge.log.count("ends early") == 2, "the recordings have ended")
        await until(lambda: bridge.said("records of calls cannot be written"), "the records wait")
        await stage.hears(caller)
        told = await neighbour.noticed_nothing()
        log.info(f"longest gap {longest_gap_s(caller):.2f} s; {told}")
        assert longest_gap_s(caller) < 0.2 + neighbour.slack_s()
        assert not caller.faults
        resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await until(lambda: bridge.said("records of calls are written again"), "there is room again")
        await stage.leaves_nothing()
        await until(
            lambda: [call["ended_by"] for call in calls(tmp_path)] == ["phone", "phone"], "both are recorded"
        )
        assert bridge.log.count("cannot be written") == 1
    for file in recordings(tmp_path):
        with wave.open(str(file)) as recorded:
            assert recorded.getnframes() > 0
