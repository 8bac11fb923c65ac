"""Measures the model on this machine: ticks, prompts, memory, and the least time that a tick could take.

All goes through the same calls as a served conversation's, copies to and from the device included, so the
figures are what the scheduler would see. Sockets and Opus cost CPU time beside them, and are not in them.

The floor of a tick is the time that this device's memory needs to be read once: all weights but the
embeddings, and each slot's filled context. Its bandwidth is measured by copying, here.
"""

from __future__ import annotations

import gc
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pxbridge.errors import InputError
from pxbridge.personaplex.assembly import GIB, footprint_of, free_bytes
from pxbridge.personaplex.config import CODEBOOKS, FRAME_S, FRAME_SAMPLES
from pxbridge.personaplex.layout import lm_shapes, mimi_shapes
from pxbridge.personaplex.model import Model
from pxbridge.personaplex.prompt import SILENT_FRAMES, Prompt, VoiceCodes
from pxbridge.personaplex.stepper import Sampling
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.layout import Shape
    from pxbridge.personaplex.model import Options

TICKS = 40
"""Measured of each kind."""
TICKS_BEFORE = 3
VOICE_FRAMES = 125
USUAL_POSITIONS = 213
"""A voice of 10 s, a text of some 50 words, and the silences after them."""
CHUNK = 64
"""Positions of a prompt that are computed at once."""
SHORTEST_CONTEXT = 128
COPIES = 20
COPIED_BYTES = {"cuda": 512 << 20, "cpu": 64 << 20}
SEED = 0

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        torch: Its version.
        device: Its name.
        memory_gib: All of its memory.
        bandwidth_gb_s: Bandwidth of its memory, measured by copying: bytes read plus bytes written.
    """

    torch: str
    device: str
    memory_gib: float
    bandwidth_gb_s: float


@dataclass(frozen=True)
class Times:
    """Of a number of runs.

    Attributes:
        p50_ms: The median.
        p95_ms: As many were slower as one in twenty.
    """

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Row:
    """One number of slots, all of them speaking.

    Attributes:
        slots: How many.
        graphed: Whether ticks ran as a CUDA graph.
        tick_after_prompt: A tick right after the prompt.
        tick_in_full_context: A tick when each slot's context is almost full: what lasts.
        eager_in_full_context: The same without a CUDA graph; None where there are none.
        floor_ms: The least that `tick_in_full_context` can take on this device.
        prefill_ms: A prompt of 213 positions, in chunks.
        longest_chunk_ms: The longest that a chunk of it kept everybody waiting.
        prefix_copy_ms: The same prompt when it is known.
        memory_gib: All that the device holds for it; None on a CPU.
        realtime: Whether ticks at full context take less than the 80 ms that they stand for, 19 times in 20.
    """

    slots: int
    graphed: bool
    tick_after_prompt: Times
    tick_in_full_context: Times
    eager_in_full_context: Times | None
    floor_ms: float
    prefill_ms: float
    longest_chunk_ms: float
    prefix_copy_ms: float
    memory_gib: float | None
    realtime: bool


@dataclass(frozen=True)
class Skipped:
    """A number of slots that was not measured, and the reason."""

    slots: int
    why: str


class RandomTensors(Mapping[str, torch.Tensor]):
    """Weights of the right shapes that are made when they are asked for: they cost no memory themselves."""

    def __init__(self, shapes: dict[str, Shape], device: str, dtype: torch.dtype) -> None:
        self._shapes, self._device, self._dtype = shapes, device, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        tensor = torch.ones(shape, device=self._device, dtype=self._dtype)
        if len(shape) == 1 or name.endswith("alpha"):  # norms, scales, biases, how often a centroid was used
            return tensor
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        inputs = tensor[0].numel()
        return tensor.normal_(0, inputs**-0.5, generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_tensors(lm: LmConfig, mimi: MimiConfig, options: Options) -> tuple[Tensors, Tensors]:
    """The language model's and Mimi's tensors, at random: times do not depend on their values."""
    dtype = options.dtype or (torch.bfloat16 if options.device == "cuda" else torch.float32)
    return (
        RandomTensors(lm_shapes(lm, CODEBOOKS), options.device, dtype),
        RandomTensors(mimi_shapes(mimi, CODEBOOKS), options.device, torch.float32),
    )


def look_at(device: str) -> Machine:
    """Names the machine and measures its memory's bandwidth."""
    size = COPIED_BYTES[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    _wait(device)
    began = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    _wait(device)
    bandwidth = 2 * size * COPIES / (time.perf_counter() - began)
    if device == "cuda":
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
    else:
        name, memory = f"CPU, {counted(torch.get_num_threads(), 'thread')}", free_bytes(device)
    return Machine(torch.__version__, name, round(memory / GIB, 1), round(bandwidth / 1e9, 1))


def measure(
    lm: LmConfig,
    mimi: MimiConfig,
    tensors: tuple[Tensors, Tensors],
    options: Options,
    slots: Sequence[int],
    machine: Machine,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Row | Skipped]:
    """Measures each number of slots.

    Args:
        lm: The language model's sizes.
        mimi: Mimi's sizes.
        tensors: Their weights, read anew for each number.
        options: How the model is run, but for its slots.
        slots: Numbers of slots.
        machine: As `look_at` found it.
        seconds: No further number is begun when it would probably end later than this.
        clock: Seconds, monotonic.

    Yields:
        A row for each number, or why there is none.

    Raises:
        InputError: The context is too short to measure anything.
    """
    if options.context < SHORTEST_CONTEXT:
        raise InputError(f"--context {options.context}: at least {SHORTEST_CONTEXT} are needed to measure")
    began = clock()
    longest_s = 0.0
    for count in slots:
        at_s = clock()
        if at_s - began + longest_s > seconds:
            yield Skipped(count, f"it would take longer than {seconds:.0f} s in all")
            continue
        run = replace(options, slots=count)
        parts = footprint_of(lm, mimi, run)
        # Room for the longest prompt, which is computed once and then copied, and for the usual one.
        run = replace(run, prefix_bytes=(run.context + USUAL_POSITIONS) * parts.position)
        needed, free = parts.total(count) + run.prefix_bytes, free_bytes(run.device)
        if needed > free:
            yield Skipped(count, f"{needed / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB are free")
            continue
        try:
            eager = None
            if run.device == "cuda" and run.graph:
                eager = _times_in_full_context(Model(lm, mimi, *tensors, replace(run, graph=False)))
                _give_back()
            floor_ms = parts.read_in_a_tick(count, _almost_all(run.context)) / (machine.bandwidth_gb_s * 1e6)
            found: Row | Skipped = _row(Model(lm, mimi, *tensors, run), eager, floor_ms)
        except torch.OutOfMemoryError as error:
            found = Skipped(count, str(error).splitlines()[0])
        _give_back()
        yield found
        longest_s = max(longest_s, clock() - at_s)


def _row(model: Model, eager: Times | None, floor_ms: float) -> Row:
    model.warm_up()
    positions = min(USUAL_POSITIONS, model.context // 2)
    _prefill(model, _prompt(positions, "the first"))  # libraries set themselves up
    chunks = _prefill(model, _prompt(positions, "timed"))
    copies = [_prefill(model, _prompt(positions, "timed")) for _ in range(TICKS_BEFORE)]
    _fill(model, positions)
    after_prompt = _ticks(model)
    full = _times_in_full_context(model)
    return Row(
        slots=model.slots,
        graphed=model.graphed,
        tick_after_prompt=after_prompt,
        tick_in_full_context=full,
        eager_in_full_context=eager,
        floor_ms=round(floor_ms, 2),
        prefill_ms=round(sum(chunks), 2),
        longest_chunk_ms=round(max(chunks), 2),
        prefix_copy_ms=round(min(sum(parts) for parts in copies), 2),
        memory_gib=_used_gib() if model.options.device == "cuda" else None,
        realtime=full.p95_ms < FRAME_S * 1e3,
    )


def _times_in_full_context(model: Model) -> Times:
    _fill(model, _almost_all(model.context))
    return _ticks(model)


def _almost_all(context: int) -> int:
    """Positions of a prompt that leaves room for the ticks that are measured."""
    return context - TICKS - TICKS_BEFORE - 1


def _prompt(positions: int, key: str) -> Prompt:
    """Any prompt of so many positions; those of the same key are the same."""
    numbers = np.random.default_rng(SEED)
    spare = positions - 2 * SILENT_FRAMES
    frames = min(VOICE_FRAMES, spare)
    codes = numbers.integers(0, 2000, (frames, CODEBOOKS), np.int64)
    text = numbers.integers(4, 1000, spare - frames).tolist()
    return Prompt(VoiceCodes(f"{key}, {frames} frames", codes), tuple(text))


def _prefill(model: Model, prompt: Prompt) -> list[float]:
    """How long a conversation's beginning took in slot 0, part by part, in ms."""
    device = model.options.device
    times = []
    _wait(device)
    began = time.perf_counter()
    left = model.open(0, prompt, Sampling(seed=SEED))
    while True:
        _wait(device)
        now = time.perf_counter()
        times.append(1e3 * (now - began))
        if not left:
            model.close(0)
            return times
        began = now
        left = model.prefill(0, CHUNK)


def _fill(model: Model, positions: int) -> None:
    """Begins a conversation in each slot, after a prompt of so many positions."""
    prompt = _prompt(positions, "fill")
    for slot in range(model.slots):
        model.close(slot)
        left = model.open(slot, prompt, Sampling(seed=slot))
        while left:
            left = model.prefill(slot, CHUNK)


def _ticks(model: Model) -> Times:
    """Ticks of all slots, each from the caller's sound in memory to the agent's."""
    numbers = np.random.default_rng(SEED)
    frames = {
        slot: (0.1 * numbers.standard_normal(FRAME_SAMPLES)).astype(np.float32) for slot in range(model.slots)
    }
    for _ in range(TICKS_BEFORE):
        model.step(frames)
    times = []
    for _ in range(TICKS):
        began = time.perf_counter()
        model.step(frames)
        times.append(1e3 * (time.perf_counter() - began))
    for slot in range(model.slots):
        model.close(slot)
    return Times(round(float(np.percentile(times, 50)), 2), round(float(np.percentile(times, 95)), 2))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _used_gib() -> float:
    free, total = torch.cuda.mem_get_info()
    return round((total - free) / GIB, 2)


def _give_back() -> None:
    """Frees what a model that is not used any more held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
