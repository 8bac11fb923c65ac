"""Checkpoints: where their files come from, and that they hold exactly what the model needs.

A checkpoint is three files and its voices: the language model, Mimi, the tokenizer, and `voices.tgz`. They
come from a folder, from a Hugging Face repository, or one by one. A file's header is checked before any
weight is read. Errors name tensors that are missing, unknown or of a wrong shape, and also truncated files
and Git LFS pointers. Weights are then read one by one, so that memory never holds a second copy of the model.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from pxbridge.errors import InputError
from pxbridge.personaplex import hub
from pxbridge.personaplex.config import CODEBOOKS, DEFAULT_REPO, STREAMS
from pxbridge.personaplex.layout import lm_shapes, mimi_shapes
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.layout import Shape

LM_FILE = "model.safetensors"
MIMI_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER_FILE = "tokenizer_spm_32k_3.model"
VOICES_FILE = "voices.tgz"
VOICES_FOLDER = "voices"

LARGEST_HEADER_BYTES = 100_000_000
"""As safetensors itself allows."""
NAMED_AT_MOST = 5
"""At most this many wrong tensors of one kind are listed in an error."""

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LFS_POINTER = b"version https://git-lfs"
_SPLIT_PROJECTION = re.compile(r"(?P<at>.*\.self_attn\.)(?P<side>in|out)_projs\.(?P<index>\d+)\.weight")
_PACKED = {"in": "in_proj_weight", "out": "out_proj.weight"}
_OLD_CODEBOOK_NAMES = {
    "inited": "_initialized",
    "cluster_size": "cluster_usage",
    "embed_avg": "embedding_sum",
    "embed_sum": "embedding_sum",
}


@dataclass(frozen=True)
class Sources:
    """Where to find a checkpoint, as the user's arguments say.

    Attributes:
        folder: A folder with the repository's files; None to use `repo`.
        repo: A Hugging Face repository.
        moshi_weight: The language model's file, in place of the folder's or the repository's.
        mimi_weight: Mimi's, likewise.
        tokenizer: The tokenizer's, likewise.
        voices: A folder of voices, in place of the checkpoint's own.
    """

    folder: Path | None = None
    repo: str = DEFAULT_REPO
    moshi_weight: Path | None = None
    mimi_weight: Path | None = None
    tokenizer: Path | None = None
    voices: Path | None = None


@dataclass(frozen=True)
class Files:
    """A checkpoint's files on this machine.

    Attributes:
        lm: The language model, safetensors.
        mimi: Mimi, safetensors.
        tokenizer: The tokenizer, SentencePiece.
        voices: A folder of voices, or `voices.tgz`; None when there are none.
    """

    lm: Path
    mimi: Path
    tokenizer: Path
    voices: Path | None


def find(sources: Sources, tell: Callable[[str], None]) -> Files:
    """Finds a checkpoint's files, and downloads those that have to come from Hugging Face.

    Args:
        sources: Where to look.
        tell: Called with sentences for the user: the licences of the files.

    Raises:
        InputError: A file is not there or cannot be downloaded.
    """
    weights = (sources.moshi_weight, sources.mimi_weight)
    _tell_licence(sources, (*weights, sources.tokenizer, sources.voices), tell)
    lm, mimi = _found_weights(sources)
    return Files(
        lm=lm,
        mimi=mimi,
        tokenizer=_file(sources, sources.tokenizer, TOKENIZER_FILE, "--tokenizer"),
        voices=_voices(sources),
    )


def find_weights(sources: Sources, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """Finds the language model and Mimi alone, as `find` does."""
    _tell_licence(sources, (sources.moshi_weight, sources.mimi_weight), tell)
    return _found_weights(sources)


def _found_weights(sources: Sources) -> tuple[Path, Path]:
    return (
        _file(sources, sources.moshi_weight, LM_FILE, "--moshi-weight"),
        _file(sources, sources.mimi_weight, MIMI_FILE, "--mimi-weight"),
    )


def _tell_licence(sources: Sources, given: tuple[Path | None, ...], tell: Callable[[str], None]) -> None:
    if sources.folder is None and None in given:
        tell(hub.licence(sources.repo))


def _file(sources: Sources, given: Path | None, name: str, option: str) -> Path:
    if given is not None:
        return _existing(given, option)
    if sources.folder is not None:
        return _existing(sources.folder / name, "--checkpoint")
    return hub.download(sources.repo, name)


def _voices(sources: Sources) -> Path | None:
    if sources.voices is not None:
        if not sources.voices.is_dir():
            raise InputError(f"--voice-prompt-dir {sources.voices}: there is no such folder")
        return sources.voices
    if sources.folder is not None:
        ours = (sources.folder / VOICES_FOLDER, sources.folder / VOICES_FILE)
        return next((path for path in ours if path.exists()), None)
    return hub.download(sources.repo, VOICES_FILE)


def _existing(path: Path, option: str) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror or error}") from error


class _Stored(NamedTuple):
    """A tensor as its file describes it."""

    shape: Shape
    dtype: str


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a checked checkpoint, by the names of :mod:`layout`; each is read when asked for.

    What is returned is on the CPU, of the file's dtype, and mapped from the file: nothing may write into it.
    """

    def __init__(self, path: Path, parts: Mapping[str, list[str]], rows: Mapping[str, int]) -> None:
        self._parts = parts
        self._rows = rows
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise InputError(f"{path}: {hub.first_line(error)}") from error

    def __getitem__(self, name: str) -> torch.Tensor:
        parts, rows = self._parts[name], self._rows.get(name)
        if len(parts) > 1:
            whole = torch.cat([self._file.get_tensor(part) for part in parts])
            return whole if rows is None else whole[:rows]
        if rows is None:
            return self._file.get_tensor(parts[0])
        return self._file.get_slice(parts[0])[:rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def open_lm(path: Path, config: LmConfig) -> Tensors:
    """The language model's tensors, of the 8 depformer steps that are used.

    NVIDIA's file has 16 and is cut: steps 8-15 predict the caller, who is always given, so leaving them out
    changes nothing. Names and shapes are those of `layout.lm_shapes(config, 8)`, whichever the file has.

    Raises:
        InputError: The file does not match the configuration; the text is one line.
    """
    stored, parts = _read_header(path)
    first = stored.get("depformer.layers.0.self_attn.in_proj_weight")
    per_step = 3 * config.depformer_dim
    steps = STREAMS - 1
    if first is not None and first.shape:
        steps, rest = divmod(first.shape[0], per_step)
        if steps not in (CODEBOOKS, STREAMS - 1) or rest:
            raise InputError(
                f"{path}: depformer.layers.0.self_attn.in_proj_weight has {first.shape[0]} rows, which makes "
                f"{first.shape[0] / per_step:g} depformer steps of {per_step}; 8 or 16 are supported"
            )
    _check(path, stored, lm_shapes(config, steps), set())
    kept = lm_shapes(config, CODEBOOKS)
    rows = {name: shape[0] for name, shape in kept.items() if stored[name].shape != shape}
    return Tensors(path, {name: parts[name] for name in kept}, rows)


def open_mimi(path: Path, config: MimiConfig) -> Tensors:
    """Mimi's tensors, of the 8 codebooks that are used: those of `layout.mimi_shapes(config, 8)`.

    Raises:
        InputError: The file does not match the configuration; the text is one line.
    """
    stored, parts = _read_header(path)
    expected = mimi_shapes(config)
    marks = {name for name in expected if name.endswith("._initialized")}
    _check(path, stored, expected, marks)
    kept = [name for name in mimi_shapes(config, CODEBOOKS) if name not in marks]
    return Tensors(path, {name: parts[name] for name in kept}, {})


def _read_header(path: Path) -> tuple[dict[str, _Stored], dict[str, list[str]]]:
    """The tensors that a safetensors file lists, and for each the names of its parts in the file."""
    header, data_bytes = _header(path)
    found: dict[str, _Stored] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        found[name] = _entry(path, name, entry, data_bytes)
    parts: dict[str, list[str]] = {}
    for name in sorted(found, key=_natural):
        parts.setdefault(_canonical(name), []).append(name)
    stored = {}
    for name, of in parts.items():
        one = found[of[0]]
        rows = sum(found[part].shape[0] if found[part].shape else 0 for part in of)
        stored[name] = one if len(of) == 1 else _Stored((rows, *one.shape[1:]), one.dtype)
    return stored, parts


def _header(path: Path) -> tuple[dict[str, object], int]:
    """The header of a safetensors file, and how many bytes come after it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            if start.startswith(_LFS_POINTER):
                raise InputError(f"{path}: a Git LFS pointer, not the file it stands for; run `git lfs pull`")
            if len(start) <= 8:
                raise InputError(f"{path}: cut short to {size} bytes; download it again")
            (length,) = struct.unpack_from("<Q", start)
            if length > LARGEST_HEADER_BYTES or start[8:9] != b"{":
                raise InputError(f"{path}: no safetensors file")
            if 8 + length > size:
                raise InputError(f"{path}: cut short within its header; download it again")
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise InputError(f"{path}: no safetensors file") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: no safetensors file")
    return header, size - 8 - length


def _entry(path: Path, name: str, entry: object, data_bytes: int) -> _Stored:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
            type(size) is int for size in shape
        ):
            pass
        case _:
            raise InputError(f"{path}: its header says nothing sensible of {name}")
    if dtype not in _ITEM_BYTES:
        raise InputError(f"{path}: {name} is {dtype}; {', '.join(_ITEM_BYTES)} can be loaded")
    if end > data_bytes:
        missing = end - data_bytes
        raise InputError(f"{path}: cut short: at least {counted(missing, 'byte')} missing; download it again")
    if end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise InputError(f"{path}: its header contradicts itself about {name}")
    return _Stored(tuple(shape), dtype)


def _canonical(name: str) -> str:
    """The name of :mod:`layout` for a tensor, or for the tensor it is a part of.

    Newer versions of Kyutai's code save the projections of attention one by one, older ones have other names
    for what a codebook holds.
    """
    if split := _SPLIT_PROJECTION.fullmatch(name):
        return split["at"] + _PACKED[split["side"]]
    at, _, last = name.rpartition(".")
    if at.endswith("._codebook") and last in _OLD_CODEBOOK_NAMES:
        return f"{at}.{_OLD_CODEBOOK_NAMES[last]}"
    return name


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `x.2` before `x.10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _check(
    path: Path, stored: Mapping[str, _Stored], expected: Mapping[str, Shape], optional: set[str]
) -> None:
    """Raises InputError unless the file has the tensors it should, no others, and of the right shapes."""
    faults = []
    if missing := [name for name in expected if name not in stored and name not in optional]:
        faults.append(f"missing: {_some(missing)}")
    if extra := [name for name in stored if name not in expected]:
        faults.append(f"not known: {_some(extra)}")
    wrong = [
        f"{name} is {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if wrong:
        faults.append(f"of another shape: {_some(wrong)}")
    if faults:
        raise InputError(f"{path}: not the model of this configuration; tensors {'; '.join(faults)}")


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
