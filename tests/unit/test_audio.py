"""The numpy interface: what goes in without a copy, what comes out, and what is refused in which words."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
import threading
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge import audio
from pxbridge.audio import (
    Line,
    OggOpusReader,
    OggOpusWriter,
    OpusDecoder,
    OpusEncoder,
    Resampler,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RATES_HZ = (8000, 16000, 24000)


def sine(seconds: float, rate_hz: int = 24000, hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def ints(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(pcm * 32767).astype(np.int16)


@pytest.mark.parametrize("make", [sine, lambda seconds: ints(sine(seconds))], ids=["float32", "int16"])
def test_an_answer_has_the_type_of_what_was_given(make: Any) -> None:
    pcm = make(0.1)
    out = Resampler(24000, 8000).process(pcm)
    assert out.dtype == pcm.dtype
    assert out.shape == (800,)


def test_an_answer_is_rusts_own_memory() -> None:
    for answer in (
        Resampler(24000, 8000).process(sine(0.1)),
        Resampler(24000, 8000).process(ints(sine(0.1))),
        OpusDecoder().decode(OpusEncoder().encode(sine(0.02))),
        OggOpusReader().read(OggOpusWriter().write(sine(1.0))),
    ):
        assert not answer.flags.owndata, "numpy allocated this, so it was copied"
        assert type(answer.base).__name__ == "PySliceContainer"
        assert answer.flags.writeable
        assert answer.flags.aligned


def test_an_answer_outlives_what_made_it() -> None:
    resampler = Resampler(24000, 24000)
    first = resampler.process(sine(0.1))
    resampler.process(np.zeros(24000, np.float32))
    del resampler
    np.testing.assert_array_equal(first, sine(0.1))


COPIES = """
    import resource
    import sys

    import numpy as np

    from pxbridge.audio import {imports}

    MIB = 1 << 20
    pcm = np.ones(64 * MIB // 4, np.float32)
    {prepare}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    {act}
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024)
"""


@pytest.mark.parametrize(
    ("imports", "prepare", "act", "allowed_mib"),
    [
        # 64 MiB in and 64 MiB out: only the answer may be new. (One more copy would make it 128.)
        ("Resampler", "resampler = Resampler(8000, 8000)", "out = resampler.process(pcm)", 80),
        # 46 MiB in, little out.
        ("OggOpusWriter", "writer = OggOpusWriter(complexity=0)", "writer.write(pcm[:12_000_000])", 32),
    ],
    ids=["resampler", "writer"],
)
def test_nothing_is_copied_at_the_border(imports: str, prepare: str, act: str, allowed_mib: int) -> None:
    script = textwrap.dedent(COPIES).format(imports=imports, prepare=prepare, act=act)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= allowed_mib


def test_out_is_filled_and_its_front_returned() -> None:
    resampler = Resampler(8000, 24000)
    out = np.full(1000, 7, np.int16)
    front = resampler.process(ints(sine(0.02, 8000)), out=out)
    assert front.base is out
    assert front.shape == (480,)
    assert (out[480:] == 7).all()
    np.testing.assert_array_equal(front, Resampler(8000, 24000).process(ints(sine(0.02, 8000))))


def test_what_does_not_fit_into_out_comes_first_the_next_time() -> None:
    ogg = OggOpusWriter(serial=1).write(sine(1.0))
    whole = OggOpusReader().read(ogg)
    reader, out, parts = OggOpusReader(), np.empty(7000, np.float32), []
    parts.append(reader.read(ogg, out=out).copy())
    assert reader.waiting_samples == len(whole) - 7000
    while reader.waiting_samples:
        parts.append(reader.read(b"", out=out).copy())
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_full_scale_saturates() -> None:
    loud = np.tile(np.array([1.0, -1.0], np.float32), 12000) * 1.5
    out = np.empty(24001, np.int16)
    front = Resampler(24000, 24000).process(loud, out=out)
    assert front.max() == 32767
    assert front.min() == -32768
    square = np.where(np.arange(8000) // 40 % 2, 32767, -32768).astype(np.int16)
    up = Resampler(8000, 24000).process(square).astype(int)
    assert np.abs(np.diff(up)).max() < 40000, "an overshoot wrapped around"


@pytest.mark.parametrize(
    ("pcm", "error", "says"),
    [
        ([1, 2, 3], TypeError, "int16 or float32 samples, not list"),
        (b"\0\0", TypeError, "not bytes"),
        (None, TypeError, "not NoneType"),
        (np.zeros(480), TypeError, "not of float64"),
        (np.zeros(480, np.int32), TypeError, "not of int32"),
        (np.zeros(480, ">i2"), TypeError, "not of >i2"),
        (np.zeros((2, 240), np.int16), ValueError, r"not of shape \(2, 240\)"),
        (np.zeros(960, np.float32)[::2], ValueError, "numpy.ascontiguousarray"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_samples_are_refused_with_what_was_expected(
    pcm: Any, error: type[Exception], says: str
) -> None:
    for take in (Resampler(24000, 8000).process, OpusEncoder().encode, OggOpusWriter().write):
        with pytest.raises(error, match=says):
            take(pcm)


def test_an_out_that_cannot_be_used_is_refused_before_anything_happened() -> None:
    locked = np.zeros(24000, np.int16)
    locked.flags.writeable = False
    resampler, pcm = Resampler(8000, 24000), sine(0.02, 8000)
    unusable: list[tuple[Any, str]] = [
        (locked, "writeable"),
        (np.zeros(100, np.int16), "room for 100 samples, this call may give 481"),
        (np.zeros(1000), "out must be .* not of float64"),
    ]
    for out, says in unusable:
        with pytest.raises((TypeError, ValueError), match=says):
            resampler.process(pcm, out=out)
    np.testing.assert_array_equal(resampler.process(pcm), Resampler(8000, 24000).process(pcm))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Resampler(44100, 8000), "44100"),
        (lambda: OpusEncoder(11025), "11025"),
        (lambda: OpusEncoder(application="music"), "'voip', 'audio' or 'lowdelay'"),  # type: ignore[arg-type]
        (lambda: OpusEncoder(bitrate_bps=1), "bitrate_bps is 1"),
        (lambda: OpusEncoder(complexity=11), "complexity is 11"),
        (lambda: OpusEncoder(frame_ms=30), "frame_ms is 30"),
        (lambda: OpusDecoder(channels=3), "channels is 3"),
        (lambda: OggOpusReader(44100), "44100"),
        (lambda: Line(11025), "11025"),
        (lambda: Line(8000, carrier="pigeon"), "carrier is 'pigeon': expected"),
        (lambda: Line(8000, encoding="opus"), "'pcm16', 'mulaw' or 'alaw'"),  # type: ignore[arg-type]
        (lambda: Line(8000, profile="fast"), "'standard', 'strict' or 'low-delay'"),  # type: ignore[arg-type]
        (lambda: OpusEncoder().encode(sine(0.03)), "720 samples: a packet of this encoder takes exactly 480"),
        (lambda: OpusDecoder().conceal(10**9), "at most"),
    ],
)
def test_an_argument_out_of_range_is_named(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@given(
    st.sampled_from(RATES_HZ),
    st.sampled_from(RATES_HZ),
    st.lists(st.integers(0, 700), max_size=8),
)
def test_blocks_of_any_length_give_the_same_samples(from_hz: int, to_hz: int, cuts: list[int]) -> None:
    pcm = np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 0.3
    whole = Resampler(from_hz, to_hz).process(pcm)
    pieces = Resampler(from_hz, to_hz)
    parts = [pieces.process(part) for part in np.split(pcm, np.cumsum(cuts)[np.cumsum(cuts) < 4000])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_other_threads_run_while_opus_works() -> None:
    encoder, pcm = OggOpusWriter(application="voip", complexity=10), sine(30.0)
    began = threading.Event()
    span: list[float] = []

    def write() -> None:
        began.set()
        span.append(time.perf_counter())
        encoder.write(pcm)
        span.append(time.perf_counter())

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    turns = []
    while thread.is_alive():
        turns.append(time.perf_counter())
    thread.join()
    # With the GIL held there would be no turn between the two times, but for the moments around them.
    first, last = span
    middle = [turn for turn in turns if first + (last - first) / 4 < turn < last - (last - first) / 4]
    assert len(middle) > 10


def described() -> list[tuple[str, str]]:
    """Each public class and each of its public members, as the stub file names them."""
    stubs = ast.parse(resources.files("pxbridge").joinpath("_native.pyi").read_text(encoding="utf-8"))
    classes = [node for node in stubs.body if isinstance(node, ast.ClassDef)]
    members = {
        (node.name, item.name)
        for node in classes
        for item in node.body
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("__")
    }
    return sorted({(node.name, "") for node in classes} | members)


@pytest.mark.parametrize(("name", "member"), described())
def test_help_tells_at_run_time_what_the_stub_tells(name: str, member: str) -> None:
    described = getattr(audio, name)
    if member:
        described = getattr(described, member)
    assert described.__doc__ and described.__doc__.strip()


def test_the_stub_leaves_no_class_or_member_out() -> None:
    told = set(described())
    for name in audio.__all__:
        if isinstance(cls := getattr(audio, name), type):
            members = {member for member in vars(cls) if not member.startswith("__")}
            assert {(name, ""), *((name, member) for member in members)} <= told


def signatures() -> list[tuple[str, str, list[str]]]:
    """Each function of each public class with the names of its parameters, as the stub file has them."""
    stubs = ast.parse(resources.files("pxbridge").joinpath("_native.pyi").read_text(encoding="utf-8"))
    return [
        (
            node.name,
            item.name,
            [arg.arg for arg in (*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs)],
        )
        for node in stubs.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and not item.decorator_list and not item.name.startswith("__")
    ]


@pytest.mark.parametrize(("name", "member", "parameters"), signatures())
def test_the_stub_names_the_parameters_as_they_are(name: str, member: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(getattr(audio, name), member)).parameters) == parameters


def test_floats_at_the_scale_of_int16_are_clipped_and_counted() -> None:
    loud = (np.sin(np.arange(24_000) * 2 * np.pi * 440 / 24_000) * 20_000).astype(np.float32)
    writer, reader = OggOpusWriter(24_000), OggOpusReader(24_000)
    heard = reader.read(writer.headers() + writer.write(loud) + writer.finish())
    assert np.sqrt(np.mean(heard**2)) > 0.5, "a mistake in scale is loud, and not silence"
    assert writer.clipped_samples == np.count_nonzero(np.abs(loud) > 1)
    encoder = OpusEncoder(24_000)
    encoder.encode(loud[:480])
    assert encoder.clipped_samples > 400


@given(
    samples=st.integers(0, 60_000),
    rate_hz=st.sampled_from([8000, 12000, 16000, 24000, 48000]),
    frame_ms=st.sampled_from([2.5, 10.0, 20.0, 60.0, 120.0]),
    application=st.sampled_from(["lowdelay", "voip", "audio"]),
)
def test_a_file_gives_back_as_many_samples_as_were_written(
    samples: int, rate_hz: int, frame_ms: float, application: Any
) -> None:
    writer = OggOpusWriter(rate_hz, frame_ms=frame_ms, application=application, complexity=0)
    file = writer.headers() + writer.write(np.zeros(samples, np.int16)) + writer.finish()
    assert len(OggOpusReader(rate_hz, trim=True).read(file)) == samples
    assert len(OggOpusReader(rate_hz).read(file)) >= samples, "a live stream gives everything"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_read(kind: Callable[[bytes], Any]) -> None:
    pcm = np.zeros(4800, np.int16)
    writer, reader = OggOpusWriter(24_000), OggOpusReader(24_000)
    assert len(reader.read(kind(writer.headers() + writer.write(pcm)))) == 4800
    assert len(OpusDecoder(24_000).decode(kind(OpusEncoder(24_000).encode(pcm[:480])))) == 480
    line = audio.Line(8000)
    assert line.phone_message(kind(b"{}"), 0.0) is None
    line.engine_audio(kind(b"OggS"), 0.0)


@pytest.mark.parametrize("wrong", ["text", 7, np.zeros(3, np.float32)])
def test_what_is_not_bytes_is_refused_by_its_type(wrong: Any) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        OggOpusReader().read(wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resampler(8000, -1),
        lambda: Resampler(-8000, 8000),
        lambda: OggOpusReader(-1),
        lambda: OggOpusWriter(bitrate_bps=-1),
        lambda: OpusEncoder(complexity=-1),
        lambda: OpusDecoder(channels=-1),
        lambda: audio.Line(-8000),
        lambda: audio.Line(8000, gate_ms=-1),
        lambda: OpusDecoder().conceal(-1),
    ],
)
def test_a_number_below_zero_is_an_error_of_value(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"-\d+"):
        make()
