"""Recordings of whole calls: what is on which side, when, and what is left when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import wave
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.call.rig import KIND, bridge, speech
from tests.virtual_time import run

from pxbridge.audio import OpusDecoder
from pxbridge.calls.call import CallRecord
from pxbridge.calls.numbers import Numbers
from pxbridge.calls.persona import Personas
from pxbridge.records import database, recording
from pxbridge.records.recording import Recorder
from pxbridge.records.stereo_timeline import StereoTimeline
from pxbridge.records.writer import RecordWriter
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import Line, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pxbridge.records.recording_files import Format
    from pxbridge.simulation.phone import Phone

RECORDED = Personas(replace(KIND.default, record=True), {}, {})


def nobody(_record: CallRecord) -> Any:
    return lambda _name: None


def record_call(
    folder: Path,
    form: Format = "wav",
    line: Line | None = None,
    personas: Personas = RECORDED,
    calls: int = 1,
    **options: Any,
) -> Phone:
    """A call of nine seconds that is recorded; the caller's words come back."""
    recorder = Recorder(folder, form, nobody)

    async def main() -> Phone:
        async with bridge(personas=personas, call_subscribers=[recorder.subscriber]) as b:
            for _ in range(calls):
                phone = await b.call(Script(speech(), speak_at_s=1.0, hang_up_at_s=9.0), line, **options)
                assert (await b.record()).ending is not None
            return phone

    try:
        return run(main())
    finally:
        recorder.close()


def sides(file: Path) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Left and right of a WAV file at 8 kHz."""
    with wave.open(str(file)) as recorded:
        assert (recorded.getnchannels(), recorded.getsampwidth(), recorded.getframerate()) == (2, 2, 8000)
        pcm = np.frombuffer(recorded.readframes(recorded.getnframes()), np.int16)
    return pcm[0::2], pcm[1::2]


def later_by(sound: NDArray[np.int16], reference: NDArray[np.int16]) -> tuple[float, float]:
    """How much later `sound` is than `reference`, in seconds, and how alike they are then."""
    size = 1 << (len(sound) + len(reference)).bit_length()
    a, b = sound.astype(np.float64), reference.astype(np.float64)
    product = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    best = int(product.argmax())
    alike = float(product[best] / np.sqrt((a**2).sum() * (b**2).sum()))
    return (best if best < size // 2 else best - size) / 8000, alike


MARGIN = 8000 // 10
PAUSE = 8000 // 2


def words_of(sound: NDArray[np.int16]) -> list[tuple[int, int]]:
    """Where there is sound between pauses of half a second: the first sample and the one after the last."""
    (loud,) = np.nonzero(np.abs(sound.astype(np.int32)) > 300)
    (breaks,) = np.nonzero(np.diff(loud) > PAUSE)
    edges = [0, *(breaks + 1), len(loud)]
    return [(int(loud[a]), int(loud[b - 1]) + 1) for a, b in pairwise(edges)]


def test_the_caller_is_left_and_the_agent_right_as_the_caller_heard_them(tmp_path: Path) -> None:
    phone = record_call(tmp_path, line=Line(chunk_ms=20))
    (file,) = tmp_path.iterdir()
    left, right = sides(file)
    assert len(left) / 8000 == pytest.approx(9.0, abs=0.1)
    said_later_s, said_alike = later_by(left, phone.said)
    heard_later_s, heard_alike = later_by(right, phone.player.heard)
    assert said_alike > 0.99 and heard_alike > 0.99
    assert said_later_s == pytest.approx(heard_later_s, abs=0.02), "the sides are shifted against each other"


def test_sides_stay_together_when_the_callers_network_stalls(tmp_path: Path) -> None:
    network = parse_network("jitter 20ms; stall 1s at 4s up")
    phone = record_call(tmp_path, line=Line(chunk_ms=100), network=network)
    (file,) = tmp_path.iterdir()
    left, right = sides(file)
    said_later_s, said_alike = later_by(left, phone.said)
    assert said_alike > 0.98
    words = words_of(phone.player.heard)
    assert len(words) > 1, "the stall made no pause in what the caller heard"
    for began, ended in words:
        around = slice(max(began - MARGIN, 0), ended + MARGIN)
        later_s, alike = later_by(right[around], phone.player.heard[around])
        assert alike > 0.98, f"what was heard from {began / 8000:.2f} s on is not what was recorded"
        assert later_s == pytest.approx(said_later_s, abs=0.1)


def test_only_personas_that_ask_for_it_are_recorded(tmp_path: Path) -> None:
    record_call(tmp_path, personas=KIND)
    assert not list(tmp_path.iterdir())


def test_recordings_are_for_their_owner_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    record_call(folder, line=Line(call_sid="../../etc/passwd", chunk_ms=100), calls=2)
    names = sorted(path.name for path in folder.iterdir())
    assert (
        len(names) == 2 and names[0].startswith("______etc_passwd-") and names[1].endswith((".wav", "-2.wav"))
    )
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert all(len(sides(path)[0]) > 8 * 8000 for path in folder.iterdir())


def test_opus_holds_the_same(tmp_path: Path) -> None:
    phone = record_call(tmp_path, "opus")
    (file,) = tmp_path.iterdir()
    left, right = decode(file)
    assert file.stat().st_size < 9 * 10_000
    assert later_by(left, phone.said)[1] > 0.9
    assert later_by(right, phone.player.heard)[1] > 0.9


def decode(file: Path) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Both sides of an Ogg Opus file with a page for every packet, at 8 kHz (RFC 3533 §6)."""
    data, decoder, pcm, at, pages = file.read_bytes(), OpusDecoder(8000, 2), [], 0, 0
    while at < len(data):
        assert data[at : at + 4] == b"OggS"
        segments = data[at + 26]
        size = sum(data[at + 27 : at + 27 + segments])
        packet = data[at + 27 + segments : at + 27 + segments + size]
        if pages == 0:
            assert packet[:10] == b"OpusHead\x01\x02"
        elif pages > 1:
            pcm.append(decoder.decode(packet, np.zeros(2 * 960, np.int16)).copy())
        at += 27 + segments + size
        pages += 1
    sound = np.concatenate(pcm)
    return sound[0::2], sound[1::2]


def test_a_full_disk_ends_the_recording_and_not_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, left_bytes = os.pwrite, [100_000]

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        if left_bytes[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[: left_bytes[0]], at)
        left_bytes[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    phone = record_call(tmp_path)
    assert phone.duration_s == pytest.approx(9.0)
    assert not phone.faults
    (file,) = tmp_path.iterdir()
    assert 0 < len(sides(file)[0]) < 9 * 8000
    assert [each.levelname for each in caplog.records if "No space left" in each.message] == ["ERROR"]


def test_a_folder_that_cannot_be_written_costs_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    phone = record_call(tmp_path / "file" / "recordings")
    assert phone.duration_s == pytest.approx(9.0)
    assert caplog.text.count("ends early") == 1


def test_the_record_names_the_recording(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, Numbers(), keep_s=1e9, keep_bytes=10**9)
    recorder = Recorder(tmp_path / "recordings", "wav", writer.recorded)

    async def main() -> None:
        async with bridge(
            personas=RECORDED, subscribers=[writer], call_subscribers=[recorder.subscriber]
        ) as b:
            await b.call(Script(hang_up_at_s=3.0), Line(call_sid="named"))
            await b.record()

    run(main())
    recorder.close()
    writer.close()
    with closing(database.open_database(tmp_path / database.FILE)) as connection:
        call = database.one(connection, "named")
    assert call is not None and call["recording"] == "named.wav"


@pytest.mark.parametrize("form", ["wav", "opus"])
def test_a_killed_process_leaves_a_file_that_plays(tmp_path: Path, form: Format) -> None:
    recording_for_ever = (
        "import sys, pathlib, itertools, numpy as np\n"
        "from pxbridge.calls.call import CallRecord\n"
        "from pxbridge.records.recording import Recorder\n"
        "recorder = Recorder(pathlib.Path(sys.argv[1]), sys.argv[2], lambda record: lambda name: None)\n"
        "record = CallRecord(call_id='killed'); record.rate_hz = 8000\n"
        "one = recorder.begin(record, 0.0)\n"
        "tone = (8000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)\n"
        "for second in itertools.count():\n"
        "    piece = (tone, [(float(second), 8000)])\n"
        "    recorder.put(one, second + 1.0, piece, piece, last=False)\n"
        "    while recorder._jobs.qsize() > 10: pass\n"
        "    if second == 100: print('going', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", recording_for_ever, str(tmp_path), form], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        process.send_signal(signal.SIGKILL)
    (file,) = tmp_path.iterdir()
    left, right = sides(file) if form == "wav" else decode(file)
    assert len(left) == len(right) > 60 * 8000
    assert np.abs(left[8000:]).max() == pytest.approx(8000, rel=0.1)


def test_of_a_call_that_goes_on_all_but_the_last_second_is_in_the_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "wav", nobody)

    async def main() -> None:
        async with bridge(personas=RECORDED, call_subscribers=[recorder.subscriber]) as b:
            script = Script(speech(), speak_at_s=0.0, hang_up_at_s=12.0)
            call = asyncio.create_task(b.call(script, Line(call_sid="going")))
            await asyncio.sleep(1.0)
            for second in range(2, 9):
                await asyncio.sleep(1.0)
                written = threading.Event()
                recorder._jobs.put(written.set)
                assert written.wait(10.0)
                left, _ = sides(tmp_path / "going.wav")
                assert second - 1.0 <= len(left) / 8000 <= second
            assert np.abs(left[8000 : 5 * 8000]).max() > 1000, "not only silence"
            await call

    run(main())
    recorder.close()


def test_an_hour_of_wav_is_what_the_setting_says(tmp_path: Path) -> None:
    record_call(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size / 9.0 * 3600 == pytest.approx(115e6, rel=0.05)


def recording_of(recorder: Recorder) -> Callable[..., None]:
    """Begins the recording `c1`, and returns a function that puts one second of it."""
    record = CallRecord(call_id="c1")
    record.rate_hz = 8000
    one = recorder.begin(record, 0.0)
    tone = (8000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)

    def put(second: int, *, last: bool = False) -> None:
        piece = (tone, [(float(second), 8000)])
        recorder.put(one, second + 1.0, piece, piece, last=last)

    return put


@pytest.mark.parametrize("form", ["wav", "opus"])
@pytest.mark.parametrize("harm", ["file", "folder", "replaced"])
def test_a_recording_whose_file_is_deleted_or_replaced_goes_on_in_a_new_one(
    form: Format, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state" / "recordings"
    named: list[str] = []
    recorder = Recorder(folder, form, lambda _record: named.append)
    put = recording_of(recorder)
    for second in range(10):
        put(second)
    written = threading.Event()
    recorder._jobs.put(written.set)
    assert written.wait(10.0)
    if harm == "file":
        (folder / named[0]).unlink()
    elif harm == "folder":
        shutil.rmtree(tmp_path / "state")
    else:
        (tmp_path / "state").rename(tmp_path / "moved")
    for second in range(10, 20):
        put(second, last=second == 19)
    recorder.close()
    assert named == [f"c1.{form}"] * 2
    left, _ = sides(folder / named[0]) if form == "wav" else decode(folder / named[0])
    assert len(left) >= 10 * 8000, "all that was not written before, and to the end"
    assert "was deleted or replaced; its recording goes on in a new file" in caplog.text
    assert recorder.failures == 0


def is_open(file: Path) -> bool:
    """Whether this process has the file open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(descriptor.readlink())
    return file in found


def test_a_recording_that_ends_while_the_thread_is_late_is_closed_with_its_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_JOBS", 4)
    recorder = Recorder(tmp_path, "wav", nobody)
    put, is_late, goes_on = recording_of(recorder), threading.Event(), threading.Event()

    def hold() -> None:
        is_late.set()
        assert goes_on.wait(10.0)

    recorder._jobs.put(hold)
    assert is_late.wait(10.0)
    for second in range(9):
        put(second)
    put(9, last=True)
    goes_on.set()
    recorder.close()
    assert recorder.dropped == 5 * recording.FETCH_EVERY_S
    left, right = sides(tmp_path / "c1.wav")
    for side in (left, right):
        assert len(side) == 10 * 8000
        assert np.abs(side[-8000:]).max() == pytest.approx(8000, rel=0.1), "its tail is lost"
    assert not is_open(tmp_path / "c1.wav")


def test_a_recording_whose_last_job_fails_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rest(_timeline: StereoTimeline, _now_s: float) -> Any:
        raise ValueError("out of order")

    monkeypatch.setattr(StereoTimeline, "rest", rest)
    recorder = Recorder(tmp_path, "wav", nobody)
    put = recording_of(recorder)
    for second in range(3):
        put(second)
    put(3, last=True)
    recorder.close()
    assert "a recording failed" in caplog.text
    assert (tmp_path / "c1.wav").exists() and not is_open(tmp_path / "c1.wav")
