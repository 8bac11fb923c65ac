"""Voices by name, from a folder or from `voices.tgz`: NVIDIA's `.pt` files, and in folders WAV recordings.

No voice comes with pxbridge. NVIDIA's 18 are in the checkpoint's repository; 5 to 15 seconds of one person's
speech make another. Names come from callers, so a name is looked up and never a path: nothing outside the
folder can be reached. A `.pt` file is read as data and cannot run code; an archive is never unpacked onto the
disk.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pxbridge.chat_wire import NVIDIAS_VOICES
from pxbridge.errors import InputError, NoSuchVoice
from pxbridge.personaplex.config import CODEBOOKS, SAMPLE_RATE_HZ, STREAMS
from pxbridge.personaplex.loudness import normalised
from pxbridge.personaplex.prompt import VOICE_TOKEN_POSITIONS, VoiceCodes, VoiceEmbeddings
from pxbridge.personaplex.stepper import finished
from pxbridge.wav import parse_wav, resample

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable
    from pathlib import Path

    from numpy.typing import NDArray

    from pxbridge.personaplex.config import LmConfig
    from pxbridge.personaplex.prompt import Voice

    Encode = Callable[[NDArray[np.float32]], Generator[None, None, NDArray[np.int64]]]
    """Mimi: float32 [samples] at 24 kHz in, int64 [frames, 8] out, in parts."""

log = logging.getLogger(__name__)

WHERE = "NVIDIA's voices are voices.tgz of https://huggingface.co/nvidia/personaplex-7b-v1"
LUFS = -24.0
"""The loudness of a recording before it is encoded, as in NVIDIA's code."""
LONGEST_WAV_S = 60.0
LARGEST_BYTES = 64 << 20
"""NVIDIA's files hold some 10 s in 2 MB; a minute of WAV in the largest usual form is 46 MB."""
PART_S = 0.001
"""The engine's thread waits at most this long for the next part of a voice. Then it serves its callers."""
KEPT = 64
"""Loaded voices that stay in memory, a few MB each."""
NAMED_AT_MOST = 24
"""At most this many voices are listed in an error."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_SUFFIXES = (".pt", ".wav")


class Voices:
    """The voices there are.

    Args:
        source: A folder, or a `.tgz` of `.pt` files, which is read here; None where there are no voices.
        config: The language model's sizes, which `.pt` voices must fit.
        encode: Mimi, for recordings. `read` goes on in the thread that it belongs to.

    Raises:
        InputError: The archive cannot be read.

    A loaded voice is kept until its file changes, so a recording is encoded once.
    """

    def __init__(self, source: Path | None, config: LmConfig, encode: Encode) -> None:
        self._files: _Files
        if source is None:
            self._files = _Archive({})
        elif source.is_dir():
            self._files = _Folder(source)
        else:
            self._files = _Archive(_read_archive(source))
        self._config = config
        self._encode = encode
        self._preparing = ThreadPoolExecutor(1, "voices")
        self._loaded: OrderedDict[tuple[str, Hashable], Voice] = OrderedDict()
        self._broken: OrderedDict[tuple[str, Hashable], str] = OrderedDict()

    def names(self) -> list[str]:
        """The files' names, sorted: `NATF0.pt`, `anna.wav`.

        Raises:
            InputError: The folder cannot be read.
        """
        return sorted(self._files.names())

    def problem(self, file: str) -> str | None:
        """Why a file cannot be used, once that has been found; None: it can, or nobody has read it."""
        try:
            found = self._broken.get((file, self._files.version(file)))
        except InputError as error:
            found = str(error)
        return None if found is None else f"voice {file}: {found}"

    def load(self, name: str) -> Voice:
        """A voice by its name, with or without `.pt` or `.wav`; raises as `read`."""
        return finished(self.read(name))

    def read(self, name: str) -> Generator[None, None, Voice]:
        """Reads a voice in parts, each of which takes milliseconds. A loaded voice needs no part.

        Raises:
            NoSuchVoice: No voice has this name. The text lists the voices.
            InputError: Its file is not a voice, or not one for this model.
        """
        there = self.names()
        file = next((name + suffix for suffix in ("", *_SUFFIXES) if name + suffix in there), None)
        if file is None:
            raise NoSuchVoice(_no_such(name, there))
        try:
            key = (file, self._files.version(file))
            if key not in self._loaded:
                try:
                    self._loaded[key] = yield from self._make(file)
                except InputError as error:
                    self._broken[key] = str(error)
                    if len(self._broken) > KEPT:
                        self._broken.popitem(last=False)
                    raise
                if len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
        except InputError as error:
            raise InputError(f"voice {file}: {error}") from None
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _make(self, file: str) -> Generator[None, None, Voice]:
        preparing = self._preparing.submit(self._prepare, file)
        while not preparing.done():
            yield
            wait([preparing], PART_S)
        try:
            prepared = preparing.result()
        except InputError:
            raise
        except Exception as error:  # the model is well: a file that nobody foresaw must not end it
            log.exception("voice %s cannot be read", file)
            raise InputError("it cannot be read; the engine's log tells why") from error
        if not isinstance(prepared, _Recording):
            return prepared
        return VoiceCodes(key=prepared.key, codes=(yield from self._encode(prepared.samples)))

    def _prepare(self, file: str) -> Voice | _Recording:
        """All but Mimi's part; in a thread of its own, as it takes a second for a minute of sound."""
        raw = self._files.read(file)
        key = hashlib.sha256(raw).hexdigest()
        if file.lower().endswith(".pt"):
            return _saved(raw, key, self._config)
        sound = parse_wav(raw)
        if sound.duration_s > LONGEST_WAV_S:
            raise InputError(f"{sound.duration_s:.0f} s long; at most {LONGEST_WAV_S:.0f} s can be used")
        samples = resample(sound.samples, sound.rate_hz, SAMPLE_RATE_HZ)
        return _Recording(key, normalised(samples, SAMPLE_RATE_HZ, LUFS))


@dataclass(frozen=True, eq=False)
class _Recording:
    """A recording before Mimi encodes it: 24 kHz, mono, at `LUFS`."""

    key: str
    samples: NDArray[np.float32]


class _Files(Protocol):
    """Files of voices by their names."""

    def names(self) -> list[str]:
        """In any order."""

    def version(self, name: str) -> Hashable:
        """Changes when the file does."""

    def read(self, name: str) -> bytes:
        """Its bytes; raises InputError."""


class _Folder:
    """The voices in a folder itself. Files of other folders, and links that lead out of it, are ignored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        try:
            home = self._folder.resolve()
            return [path.name for path in self._folder.iterdir() if _is_voice(path, home)]
        except OSError as error:
            raise InputError(f"{self._folder}: {error.strerror or error}") from error

    def version(self, name: str) -> Hashable:
        try:
            status = (self._folder / name).stat()
        except OSError as error:
            raise InputError(error.strerror or str(error)) from error
        if status.st_size > LARGEST_BYTES:
            raise InputError(f"larger than {LARGEST_BYTES >> 20} MB")
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise InputError(error.strerror or str(error)) from error


class _Archive:
    """The voices of an archive, in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._voices = files

    def names(self) -> list[str]:
        return list(self._voices)

    def version(self, name: str) -> Hashable:
        return name

    def read(self, name: str) -> bytes:
        return self._voices[name]


def _is_voice(path: Path, home: Path) -> bool:
    return bool(
        _NAME.fullmatch(path.name)
        and path.suffix.lower() in _SUFFIXES
        and path.is_file()
        and path.resolve().is_relative_to(home)
    )


def _read_archive(path: Path) -> dict[str, bytes]:
    """The `.pt` files of a `.tgz`, wherever in it they lie, by their names."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not (member.isreg() and _NAME.fullmatch(name) and name.endswith(".pt")):
                    continue
                if member.size > LARGEST_BYTES:
                    raise InputError(f"{path}: {name} in it is larger than {LARGEST_BYTES >> 20} MB")
                file = archive.extractfile(member)
                if file is not None:
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path}: no archive of voices, or cut short: {error}") from error
    return found


def _saved(raw: bytes, key: str, config: LmConfig) -> VoiceEmbeddings:
    """Reads a voice in NVIDIA's format, as described at `VoiceEmbeddings`."""
    try:
        found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything at all for bytes it was not made for
        raise InputError("not a file of tensors, or cut short") from error
    if not isinstance(found, dict) or set(found) != {"embeddings", "cache"}:
        raise InputError("a voice holds `embeddings` and `cache`, and nothing else")
    embeddings, cache = found["embeddings"], found["cache"]
    if not isinstance(embeddings, torch.Tensor) or not isinstance(cache, torch.Tensor):
        raise InputError("`embeddings` and `cache` must be tensors")
    if embeddings.layout != torch.strided or cache.layout != torch.strided:
        raise InputError("`embeddings` and `cache` must be dense tensors")
    shape = tuple(embeddings.shape)
    fits = len(shape) == 4 and shape[0] >= 1 and shape[1:] == (1, 1, config.dim)
    if not fits or not embeddings.is_floating_point():
        raise InputError(
            f"`embeddings` is {_described(embeddings)}; this model needs floats [any, 1, 1, {config.dim}]"
        )
    if tuple(cache.shape) != (1, STREAMS, VOICE_TOKEN_POSITIONS) or cache.dtype != torch.int64:
        raise InputError(
            f"`cache` is {_described(cache)}; this model needs int64 [1, {STREAMS}, {VOICE_TOKEN_POSITIONS}]"
        )
    summed = embeddings.detach()[:, 0, 0].float()  # what was trained may still ask for gradients
    if not torch.isfinite(summed).all():
        raise InputError("`embeddings` holds values that are not numbers")
    tokens = cache[0].numpy()
    last, after = (tokens[:, position % VOICE_TOKEN_POSITIONS] for position in (shape[0], shape[0] + 1))
    late = [*range(2, 1 + CODEBOOKS), *range(2 + CODEBOOKS, STREAMS)]  # what is used of the position after
    codes = np.concatenate([last[1:], after[late]])
    if codes.min() < 0 or codes.max() > config.card or not 0 <= last[0] <= config.text_card:
        raise InputError("`cache` holds tokens that this model does not know")
    return VoiceEmbeddings(key=key, embeddings=summed.numpy(), tokens=tokens)


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _no_such(name: str, there: list[str]) -> str:
    shown = repr(name if len(name) <= 100 else f"{name[:100]}…")
    if not there:
        return f"there is no voice {shown}, nor any other: {WHERE}"
    listed = ", ".join(file.removesuffix(".pt") for file in there[:NAMED_AT_MOST])
    more = f" and {len(there) - NAMED_AT_MOST} more" if len(there) > NAMED_AT_MOST else ""
    published = f" ({WHERE})" if f"{name.removesuffix('.pt')}.pt" in NVIDIAS_VOICES else ""
    return f"there is no voice {shown}{published}; there are {listed}{more}"
