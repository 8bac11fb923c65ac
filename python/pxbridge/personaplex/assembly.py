"""Builds what conversations need from one checkpoint: the model, its tokenizer and its voices."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pxbridge.errors import InputError
from pxbridge.personaplex import checkpoint
from pxbridge.personaplex.memory import footprint
from pxbridge.personaplex.model import Model, Options
from pxbridge.personaplex.text import Tokenizer
from pxbridge.personaplex.voices import Voices
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.memory import Footprint

GIB = 1 << 30
THREADS_FROM_DIM = 512
"""Narrower matrices are multiplied before a second thread has woken up."""


@dataclass(frozen=True)
class Assembled:
    """All of a checkpoint.

    Attributes:
        model: Steps conversations.
        tokenizer: The checkpoint's tokenizer.
        voices: The voices; recordings are encoded by `model`.
        lm: The language model's sizes.
    """

    model: Model
    tokenizer: Tokenizer
    voices: Voices
    lm: LmConfig


def assemble(
    sources: checkpoint.Sources,
    lm: LmConfig,
    mimi: MimiConfig,
    options: Options,
    tell: Callable[[str], None],
) -> Assembled:
    """Finds a checkpoint, checks all of its files, and then loads it. Sets the process's torch threads.

    Args:
        sources: Where it is.
        lm: The language model's sizes.
        mimi: Mimi's sizes.
        options: How the model is run. `usable` checks their device.
        tell: Called with sentences for the user, such as licences.

    Raises:
        InputError: A file is not there or not what it should be, or the device's memory is too small.
    """
    set_threads(lm, options.device)
    files = checkpoint.find(sources, tell)
    lm_tensors = checkpoint.open_lm(files.lm, lm)
    mimi_tensors = checkpoint.open_mimi(files.mimi, mimi)
    tokenizer = Tokenizer(files.tokenizer, lm.text_card)
    if options.device == "cpu" and footprint_of(lm, mimi, options).total(options.slots) > free_bytes("cpu"):
        raise InputError(too_large(lm, mimi, options))  # the system would end the process without a word
    tell(f"loading {files.lm}")
    try:
        model = Model(lm, mimi, lm_tensors, mimi_tensors, options)
    except torch.OutOfMemoryError as error:
        raise InputError(too_large(lm, mimi, options)) from error
    return Assembled(model, tokenizer, Voices(files.voices, lm, model.encode), lm)


def set_threads(lm: LmConfig, device: str) -> None:
    """Leaves torch one thread on the CPU where more would make it slower."""
    if device == "cuda" or lm.dim < THREADS_FROM_DIM:
        torch.set_num_threads(1)


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_named(name: str) -> torch.dtype:
    """A type of numbers by its name in torch, such as ``float64``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def require_device(device: str) -> None:
    """Raises InputError where this machine has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        raise InputError(f"--device cuda: torch {torch.__version__} sees no CUDA device here; it {built}")


def free_bytes(device: str) -> int:
    """Memory that a device has free now; a very large number where that is not known."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return sys.maxsize


def offloaded(lm: LmConfig, mimi: MimiConfig, options: Options) -> Options:
    """The same options with as many layers on the CPU as do not fit into the device's free memory."""
    if options.device == "cpu":
        return options
    layers = footprint_of(lm, mimi, options).layers_that_do_not_fit(
        free_bytes(options.device), options.slots, options.prefix_bytes
    )
    return replace(options, offload_layers=layers)


def too_large(lm: LmConfig, mimi: MimiConfig, options: Options) -> str:
    """What to tell when the device's memory does not do."""
    parts = footprint_of(lm, mimi, options)
    remedies = ["fewer --slots" if options.slots > 1 else "a shorter --context"]
    if options.weights != "int8":
        remedies.append("--weights int8")
    slots = counted(options.slots, "slot")
    return (
        f"the memory of {options.device} is too small: weights take {parts.weights / GIB:.1f} GiB, and "
        f"{slots} of {options.context} positions {options.slots * parts.slot / GIB:.1f} GiB: "
        f"{parts.total(options.slots) / GIB:.1f} GiB with nothing else; {' or '.join(remedies)} takes less"
    )


def footprint_of(lm: LmConfig, mimi: MimiConfig, options: Options) -> Footprint:
    """What a model takes when it is run so."""
    item_bytes = 2 if options.device == "cuda" else 4
    if options.dtype is not None:
        item_bytes = options.dtype.itemsize
    return footprint(lm, mimi, context=options.context, weights=options.weights, item_bytes=item_bytes)
