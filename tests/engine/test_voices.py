"""Voices are found by name alone, checked before they are used, and recordings are made equally loud."""

from __future__ import annotations

import io
import pickle
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyloudnorm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.rig import tiny_model
from tests.engine.tiny import FOLDER, LM
from tests.simulated import VECTORS

from pxbridge.errors import InputError, NoSuchVoice
from pxbridge.personaplex.prompt import VoiceCodes, VoiceEmbeddings
from pxbridge.personaplex.voices import Voices
from pxbridge.wav import read_wav, resample, write_float_wav

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from numpy.typing import NDArray

SPEECH = read_wav(VECTORS / "speech_24k.wav").samples


class Mimi:
    """Keeps what it was given to encode."""

    def __init__(self) -> None:
        self.heard: list[NDArray[np.float32]] = []

    def __call__(self, sound: NDArray[np.float32]) -> Generator[None, None, NDArray[np.int64]]:
        self.heard.append(sound)
        yield
        return np.full((len(sound) // 1920, 8), len(self.heard), np.int64)


def voices(source: Path | None, mimi: Mimi | None = None) -> Voices:
    return Voices(source, LM, mimi or Mimi())


def saved(**changes: Any) -> bytes:
    """A voice of 5 positions, with changes; None leaves a key out."""
    voice = {"embeddings": torch.zeros(4, 1, 1, LM.dim), "cache": torch.zeros(1, 17, 4, dtype=torch.int64)}
    voice |= changes
    file = io.BytesIO()
    torch.save({key: value for key, value in voice.items() if value is not None}, file)
    return file.getvalue()


def with_token(row: int, column: int, token: int) -> torch.Tensor:
    cache = torch.zeros(1, 17, 4, dtype=torch.int64)
    cache[0, row, column] = token
    return cache


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_voice_is_found_with_and_without_its_suffix() -> None:
    found = voices(FOLDER)
    assert found.names() == [f"voice-{n}.pt" for n in range(4)]
    assert found.load("voice-1") is found.load("voice-1.pt")


def test_a_saved_voice_is_what_its_file_holds() -> None:
    voice = voices(FOLDER).load("voice-2")
    file = torch.load(FOLDER / "voice-2.pt", weights_only=True)
    assert isinstance(voice, VoiceEmbeddings)
    assert voice.positions == len(file["embeddings"]) + 1
    np.testing.assert_array_equal(voice.embeddings, file["embeddings"][:, 0, 0])
    np.testing.assert_array_equal(voice.tokens, file["cache"][0])


def test_voices_of_bf16_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(saved(embeddings=torch.full((4, 1, 1, LM.dim), 0.5).bfloat16()))
    voice = voices(tmp_path).load("a")
    assert isinstance(voice, VoiceEmbeddings)
    assert voice.embeddings.dtype == np.float32
    assert (voice.embeddings == 0.5).all()


@pytest.mark.parametrize("name", ["NATF0", "NATF0.pt"])
def test_where_nvidias_voices_come_from_is_told_when_they_are_asked_for(name: str) -> None:
    with pytest.raises(
        NoSuchVoice, match=r"no voice 'NATF.*voices\.tgz of https://hugging.*; there are voice-0"
    ):
        voices(FOLDER).load(name)


def test_without_any_voice_it_is_told_where_they_come_from(tmp_path: Path) -> None:
    for source in (None, tmp_path):
        with pytest.raises(NoSuchVoice, match=r"no voice 'anna', nor any other: .*voices\.tgz"):
            voices(source).load("anna")


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder of voices, beside which there are others."""
    folder = tmp_path / "voices"
    (folder / "sub").mkdir(parents=True)
    for path in ("outside.pt", "voices/inside.pt", "voices/sub/deep.pt", "voices/.hidden.pt"):
        (tmp_path / path).write_bytes(saved())
    (folder / "linked-out.pt").symlink_to(tmp_path / "outside.pt")
    (folder / "linked-in.pt").symlink_to("inside.pt")
    (folder / "linked-folder").symlink_to(tmp_path)
    (folder / "folder.pt").mkdir()
    (folder / "notes.txt").touch()
    return folder


def test_only_voices_that_lie_in_the_folder_are_listed(allowed: Path) -> None:
    assert voices(allowed).names() == ["inside.pt", "linked-in.pt"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "../outside.pt",
        "sub/deep",
        "sub/deep.pt",
        "./inside",
        "linked-out",
        "linked-folder/outside",
        ".hidden",
        "folder",
        "notes.txt",
        "",
        ".",
        "..",
        "inside.pt/",
        "inside\0",
        "INSIDE",
    ],
)
def test_nothing_else_can_be_loaded(allowed: Path, name: str) -> None:
    for asked in (
        name,
        str(allowed / name) if "\0" not in name else name,
        str(allowed.parent / "outside.pt"),
    ):
        with pytest.raises(NoSuchVoice):
            voices(allowed).load(asked)


@given(name=st.text(max_size=300))
def test_any_name_is_found_or_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(NoSuchVoice) as refused:
        voices(FOLDER).load(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1500


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a file of tensors, or cut short"),
        (saved()[:-100], "not a file of tensors, or cut short"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a file of tensors"),
        (pickle.dumps({"embeddings": Evil(), "cache": 1}), "not a file of tensors"),
        (saved(cache=None), "holds `embeddings` and `cache`, and nothing else"),
        (saved(more=torch.zeros(1)), "holds `embeddings` and `cache`, and nothing else"),
        (saved(cache=3), "must be tensors"),
        (
            saved(embeddings=torch.zeros(4, 1, 1, 4096)),
            r"float32 \[4, 1, 1, 4096\]; this model needs .* 32\]",
        ),
        (saved(embeddings=torch.zeros(0, 1, 1, LM.dim)), "`embeddings` is float32"),
        (saved(embeddings=torch.zeros(4, 1, 1, LM.dim).long()), "`embeddings` is int64"),
        (saved(embeddings=torch.full((4, 1, 1, LM.dim), float("nan"))), "values that are not numbers"),
        (saved(embeddings=torch.full((4, 1, 1, LM.dim), 1e300, dtype=torch.float64)), "values that are not"),
        (saved(embeddings=torch.zeros(4, 1, 1, LM.dim).to_sparse()), "must be dense tensors"),
        (saved(cache=torch.zeros(1, 17, 4, dtype=torch.int64).to_sparse()), "must be dense tensors"),
        (saved(cache=torch.zeros(1, 17, 5, dtype=torch.int64)), r"`cache` is int64 \[1, 17, 5\]"),
        (saved(cache=torch.zeros(1, 17, 4)), "`cache` is float32"),
        (saved(cache=with_token(3, 0, 2049)), "tokens that this model does not know"),
        (saved(cache=with_token(3, 1, -1)), "tokens that this model does not know"),
        (saved(cache=with_token(0, 0, 1001)), "tokens that this model does not know"),
    ],
)
def test_what_is_no_voice_of_this_model_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(InputError, match=rf"voice bad\.pt: .*{problem}") as refused:
        voices(tmp_path).load("bad")
    assert "\n" not in str(refused.value)


def test_tokens_of_positions_that_are_not_used_may_be_anything(tmp_path: Path) -> None:
    cache = torch.full((1, 17, 4), -2, dtype=torch.int64)
    cache[0, :, 0] = 5  # position 4, the last
    cache[0, 2:9, 1] = cache[0, 10:17, 1] = 6  # position 5: acoustic codes alone
    (tmp_path / "a.pt").write_bytes(saved(cache=cache))
    assert voices(tmp_path).load("a").positions == 5


def test_a_voice_that_was_trained_and_still_asks_for_gradients_is_read(tmp_path: Path) -> None:
    embeddings = torch.nn.Parameter(torch.full((4, 1, 1, LM.dim), 0.5))
    (tmp_path / "a.pt").write_bytes(saved(embeddings=embeddings))
    voice = voices(tmp_path).load("a")
    assert isinstance(voice, VoiceEmbeddings)
    assert np.all(voice.embeddings == 0.5)


def test_a_file_that_breaks_its_reader_is_a_voice_that_cannot_be_used_and_no_fault_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    recording(tmp_path / "anna.wav", SPEECH)
    monkeypatch.setattr("pxbridge.personaplex.voices.normalised", broken)
    with pytest.raises(InputError, match=r"voice anna\.wav: it cannot be read"):
        voices(tmp_path).load("anna")
    assert "nobody thought of this" in caplog.text


def recording(path: Path, sound: NDArray[np.float32], rate_hz: int = 24_000) -> None:
    write_float_wav(path, resample(sound, 24_000, rate_hz), rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("gain", [0.05, 0.5])
def test_a_recording_is_encoded_at_24_khz_and_minus_24_lufs(
    tmp_path: Path, rate_hz: int, gain: float
) -> None:
    recording(tmp_path / "anna.wav", gain * SPEECH, rate_hz)
    mimi = Mimi()
    voice = voices(tmp_path, mimi).load("anna")
    assert isinstance(voice, VoiceCodes)
    (heard,) = mimi.heard
    assert len(heard) == pytest.approx(len(SPEECH), abs=1)
    measured = pyloudnorm.Meter(24_000).integrated_loudness(heard.astype(np.float64))
    assert measured == pytest.approx(-24, abs=0.5)


def test_a_stereo_recording_is_mixed_to_one_channel(tmp_path: Path) -> None:
    recording(tmp_path / "anna.wav", SPEECH)
    stereo = np.stack([1.5 * SPEECH, 0.5 * SPEECH], axis=1).astype("<f4").tobytes()
    mono = (tmp_path / "anna.wav").read_bytes()
    header = bytearray(mono[: len(mono) - 4 * len(SPEECH)])
    header[22:24] = (2).to_bytes(2, "little")  # channels
    header[28:34] = (24_000 * 8).to_bytes(4, "little") + (8).to_bytes(2, "little")  # bytes a second, a frame
    header[-4:] = len(stereo).to_bytes(4, "little")
    (tmp_path / "both.wav").write_bytes(bytes(header) + stereo)
    mimi = Mimi()
    loaded = voices(tmp_path, mimi)
    loaded.load("anna")
    loaded.load("both")
    np.testing.assert_allclose(mimi.heard[1], mimi.heard[0], atol=1e-6)


def test_a_voice_that_cannot_be_used_is_known_from_its_first_reading_until_its_file_changes(
    tmp_path: Path,
) -> None:
    file, found = tmp_path / "bad.pt", voices(tmp_path)
    file.write_bytes(b"no tensors")
    assert found.problem("bad.pt") is None
    with pytest.raises(InputError):
        found.load("bad")
    assert found.problem("bad.pt") == "voice bad.pt: not a file of tensors, or cut short"
    file.write_bytes(saved())
    assert found.problem("bad.pt") is None
    assert found.load("bad").positions == 5
    file.unlink()
    assert found.problem("bad.pt") == "voice bad.pt: No such file or directory"


def test_a_recording_is_encoded_once_until_its_file_changes(tmp_path: Path) -> None:
    recording(tmp_path / "anna.wav", SPEECH)
    mimi = Mimi()
    loaded = voices(tmp_path, mimi)
    first = loaded.load("anna")
    assert loaded.load("anna.wav") is first
    assert len(mimi.heard) == 1
    recording(tmp_path / "anna.wav", SPEECH[:48_000])
    assert loaded.load("anna").key != first.key
    assert len(mimi.heard) == 2


def test_a_recording_is_read_in_parts_and_a_known_one_in_none(tmp_path: Path) -> None:
    recording(tmp_path / "anna.wav", np.tile(SPEECH, 4))
    model = tiny_model()
    loaded = Voices(tmp_path, LM, model.encode)
    parts = list(loaded.read("anna"))
    frames = -(-4 * len(SPEECH) // 1920)
    assert len(parts) > frames, "a frame at a time, and what comes before that in another thread"
    assert list(loaded.read("anna")) == []
    voice = loaded.load("anna")
    assert isinstance(voice, VoiceCodes)
    assert voice.codes.shape == (frames, 8)


def test_equal_recordings_have_equal_keys(tmp_path: Path) -> None:
    for name in ("anna.wav", "copy.wav"):
        recording(tmp_path / name, SPEECH)
    loaded = voices(tmp_path)
    assert loaded.load("anna").key == loaded.load("copy").key


@pytest.mark.parametrize(
    ("seconds", "problem"),
    [(0.2, "shorter than 400 ms"), (61, "61 s long; at most 60 s can be used"), (0, "no audio|shorter")],
)
def test_a_recording_of_a_wrong_length_is_refused(tmp_path: Path, seconds: float, problem: str) -> None:
    recording(tmp_path / "anna.wav", np.ones(int(seconds * 24_000), np.float32))
    with pytest.raises(InputError, match=rf"voice anna\.wav: .*({problem})"):
        voices(tmp_path).load("anna")


def test_a_silent_recording_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    recording(tmp_path / "silent.wav", np.zeros(24_000, np.float32))
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"voice silent\.wav: silent"):
        voices(tmp_path).load("silent")
    with pytest.raises(InputError, match=r"voice text\.wav: this is not a WAV file"):
        voices(tmp_path).load("text")


def test_an_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "voices.tgz",
        {
            "voices/NATF0.pt": saved(),
            "voices/._NATF0.pt": b"a Mac's",
            "../../VARM1.pt": saved(),
            "voices/readme.txt": b"",
        },
    )
    loaded = voices(source)
    assert loaded.names() == ["NATF0.pt", "VARM1.pt"]
    assert loaded.load("NATF0").positions == 5
    assert [path.name for path in tmp_path.iterdir()] == ["voices.tgz"]


def test_an_archive_cut_short_is_named(tmp_path: Path) -> None:
    source = archive(tmp_path / "voices.tgz", {"NATF0.pt": saved()})
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"voices\.tgz: no archive of voices, or cut short"):
        voices(source)


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pxbridge.personaplex.voices.LARGEST_BYTES", 1 << 10)
    (tmp_path / "big.pt").write_bytes(saved())
    with pytest.raises(InputError, match=r"voice big\.pt: larger than"):
        voices(tmp_path).load("big")
    with pytest.raises(InputError, match=r"big\.pt in it is larger than"):
        voices(archive(tmp_path / "voices.tgz", {"big.pt": saved()}))
