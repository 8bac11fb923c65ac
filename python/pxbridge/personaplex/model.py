"""The whole of PersonaPlex: each tick takes one frame of each caller and returns one frame of each agent.

One tick is encode ▶ language model ▶ decode for all slots at once, on tensors at fixed addresses. One copy
brings in the sound and the list of slots that step. One copy brings out sound and tokens. On CUDA a graph
holds all work between the two copies. On the CPU the same function runs without a graph.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pxbridge.errors import PromptTooLong
from pxbridge.personaplex.config import CODEBOOKS, FRAME_SAMPLES
from pxbridge.personaplex.graph import Graph
from pxbridge.personaplex.lm import LanguageModel
from pxbridge.personaplex.lm_slots import LmSlots
from pxbridge.personaplex.mimi import Mimi
from pxbridge.personaplex.prefix import PrefixCache
from pxbridge.personaplex.prompt import SILENCE, Prompt, VoiceCodes
from pxbridge.personaplex.stepper import Counters, Sampling, SlotMisused, Step
from pxbridge.personaplex.varlen import filled_attention

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pxbridge.personaplex.attention import Pin
    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.linear import Weights

log = logging.getLogger("pxbridge.engine")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is run.

    Attributes:
        slots: Conversations at once.
        context: Positions of 80 ms that stay in attention.
        pin: What happens to the prompt when the context is full; see `attention`.
        device: `cpu` or `cuda`.
        dtype: Of the language model; None for bfloat16 on CUDA and float32 elsewhere. Mimi is float32, or
            float64 with it. That tells rounding from mistakes: no code or draw falls the other way for it.
        weights: How the language model's matrices are kept.
        offload_layers: How many of its last layers keep their matrices on the CPU. This is not real time.
        prefix_bytes: Memory for prompts that were computed before.
        graph: Ticks as one CUDA graph, where that is possible.
    """

    slots: int = 1
    context: int = 3000
    pin: Pin = "near"
    device: str = "cpu"
    dtype: torch.dtype | None = None
    weights: Weights = "full"
    offload_layers: int = 0
    prefix_bytes: int = 0
    graph: bool = True


@dataclass(eq=False)
class _Prefilling:
    """A slot whose prompt is computed up to `position`."""

    prompt: Prompt
    sampling: Sampling
    embeddings: Tensor
    position: int = 0

    @property
    def left(self) -> int:
        return self.prompt.positions - self.position


@dataclass(eq=False)
class _Live:
    """A slot in conversation: the next step's position, and from how many tokens it draws at most."""

    position: int
    top_k: int


class Model:
    """PersonaPlex for a fixed number of slots; a `Stepper`.

    Args:
        lm_config: The language model's sizes.
        mimi_config: Mimi's sizes.
        lm_tensors: The language model's tensors by the checkpoint's names, with 8 depformer steps.
        mimi_tensors: Mimi's, too.
        options: How it is run.

    Raises:
        ValueError: A context that leaves no room for a prompt, or no slots.
    """

    def __init__(
        self,
        lm_config: LmConfig,
        mimi_config: MimiConfig,
        lm_tensors: Mapping[str, Tensor],
        mimi_tensors: Mapping[str, Tensor],
        options: Options,
    ) -> None:
        if options.slots < 1 or options.context < 2:
            raise ValueError("at least 1 slot and a context of 2 are needed")
        self.options = options
        device = torch.device(options.device)
        dtype = options.dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        slots = options.slots
        with torch.inference_mode():
            lm = LanguageModel(
                lm_config,
                lm_tensors,
                dtype=dtype,
                device=device,
                weights=options.weights,
                offload_layers=options.offload_layers,
            )
            heads, head_dim = lm_config.num_heads, lm_config.head_dim
            filled = filled_attention(slots, options.context, heads, head_dim, dtype, device)
            self._lm = LmSlots(lm, slots, options.context, options.pin, filled)
            codec_dtype = torch.float64 if dtype == torch.float64 else torch.float32
            self._mimi = Mimi(mimi_config, mimi_tensors, device, codec_dtype)
            self._encoder = self._mimi.encoder(slots)
            self._decoder = self._mimi.decoder(slots)
            self._fresh_encoder = self._mimi.encoder(1)
            self._fresh_decoder = self._mimi.started_decoder()
            self._in, self._in_host = _both_sides(slots, FRAME_SAMPLES + 1, device)
            self._out, self._out_host = _both_sides(slots, FRAME_SAMPLES + 1 + CODEBOOKS, device)
        self._device = device
        self._limits = self._lm.widest
        # Offloaded layers are copied in each tick; a graph would keep all of their copies.
        self._tick = Graph(self._run_tick, device, wanted=options.graph and not options.offload_layers)
        self._prefixes = PrefixCache(options.prefix_bytes)
        self._sessions: dict[int, _Prefilling | _Live] = {}
        self._counters = Counters()
        for slot in range(slots):
            self._clear(slot)

    @property
    def slots(self) -> int:
        """As `Stepper.slots`."""
        return self.options.slots

    @property
    def context(self) -> int:
        """As `Stepper.context`."""
        return self.options.context

    @property
    def longest_prompt(self) -> int:
        """As `Stepper.longest_prompt`."""
        return self.options.context - 1

    @property
    def graphed(self) -> bool:
        """Whether ticks run as a CUDA graph; known once it has warmed up."""
        return self._tick.captured

    def warm_up(self) -> None:
        """As `Stepper.warm_up`; captures the CUDA graph."""
        if self._sessions:
            raise SlotMisused("a model warms up while all slots are closed")
        counters, prefixes = self._counters, self._prefixes
        self._prefixes = PrefixCache(0)
        frame = np.zeros(FRAME_SAMPLES, np.float32)
        prompt = Prompt(VoiceCodes("warm-up", np.array([SILENCE])), ())
        if prompt.positions <= self.longest_prompt:
            self.open(0, prompt, Sampling())
            while self.prefill(0, prompt.positions // 2):
                pass
            for _ in range(2):
                self.step({0: frame})
            self.close(0)
        self._counters, self._prefixes = counters, prefixes

    def encode(self, sound: NDArray[np.float32]) -> Generator[None, None, NDArray[np.int64]]:
        """As `Stepper.encode`."""
        frames = -(-len(sound) // FRAME_SAMPLES)
        padded = np.zeros((frames, 1, FRAME_SAMPLES), np.float32)
        padded.reshape(-1)[: len(sound)] = sound
        codes = np.empty((frames, CODEBOOKS), np.int64)
        running = torch.ones(1, dtype=torch.bool, device=self._device)
        stream = self._mimi.encoder(1)
        for at, frame in enumerate(padded):
            with torch.inference_mode():  # not around the loop: others work in this thread between frames
                found = self._mimi.encode(stream, torch.from_numpy(frame).to(self._device), running)
                codes[at] = found[0].cpu().numpy()  # waits for the device, so that its time is counted
            yield
        return codes

    def knows(self, prompt: Prompt) -> bool:
        """As `Stepper.knows`."""
        return self._prefixes.has(prompt)

    def open(self, slot: int, prompt: Prompt, sampling: Sampling) -> int:
        """As `Stepper.open`."""
        if not 0 <= slot < self.slots or slot in self._sessions:
            raise SlotMisused(f"slot {slot} is not a closed one of {self.slots}")
        if prompt.positions > self.longest_prompt:
            raise PromptTooLong(
                f"the prompt takes {prompt.positions} positions of 80 ms; {self.longest_prompt} fit"
            )
        with torch.inference_mode():
            embeddings = self._lm.prompt_embeddings(prompt)
            self._lm.open(slot, sampling, prompt.positions)
            session = self._sessions[slot] = _Prefilling(prompt, sampling, embeddings)
            found = self._prefixes.longest(prompt)
            if found is None:
                self._count(prefix_misses=1)
                return session.left
            prefix, session.position = found
            self._lm.install(slot, prefix, session.position)
            self._count(copied_positions=session.position)
            if session.left:
                self._count(prefix_partial_hits=1)
                return session.left
            self._count(prefix_hits=1)
            self._begin(slot, session, prefix.hidden)
            return 0

    def prefill(self, slot: int, positions: int) -> int:
        """As `Stepper.prefill`."""
        session = self._sessions.get(slot)
        if not isinstance(session, _Prefilling):
            raise SlotMisused(f"slot {slot} has no prompt left to prefill")
        count = min(max(positions, 1), session.left)
        with torch.inference_mode():
            start = session.position
            hidden = self._lm.prefill(slot, session.embeddings[start : start + count], start)
            session.position += count
            self._count(prefilled_positions=count)
            if not session.left:
                self._keep_prefix(slot, session, hidden)
                self._begin(slot, session, hidden)
        return session.left

    def step(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Step]:
        """As `Stepper.step`."""
        live = {slot: session for slot in frames if isinstance(session := self._sessions.get(slot), _Live)}
        if len(live) < len(frames):
            raise SlotMisused(f"slots {sorted(set(frames) - set(live))} are not live")
        for slot, frame in frames.items():
            if frame.shape != (FRAME_SAMPLES,):
                raise ValueError(f"slot {slot}: a frame of shape {frame.shape}, not ({FRAME_SAMPLES},)")
        if not frames:
            return {}
        furthest = max(session.position for session in live.values())
        most = max(session.top_k for session in live.values())
        with torch.inference_mode():
            if not self._tick.prepared:
                self._in.zero_()  # no slot steps while the graph is captured
                self._limits = self._lm.widest
                self._tick.prepare()
            if not self._tick.captured:
                self._limits = self._lm.limits(furthest, most)
            self._in_host.zero_()
            given = self._in_host.numpy()
            for slot, frame in frames.items():
                given[slot, :FRAME_SAMPLES] = np.where(np.isfinite(frame), frame, 0)
                given[slot, FRAME_SAMPLES] = 1
            self._in.copy_(self._in_host, non_blocking=True)
            self._tick.run()
            self._out_host.copy_(self._out, non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.current_stream().synchronize()
        for session in live.values():
            session.position += 1
        self._count(ticks=1, frames=len(frames))
        found = self._out_host.numpy()
        return {slot: _step(found[slot]) for slot in frames}

    def close(self, slot: int) -> None:
        """As `Stepper.close`. All data of the conversation is removed."""
        if self._sessions.pop(slot, None) is not None:
            self._clear(slot)

    def counters(self) -> Counters:
        """As `Stepper.counters`."""
        prefixes = self._prefixes
        return dataclasses.replace(
            self._counters,
            prefix_evictions=prefixes.evictions,
            prefixes=len(prefixes),
            prefix_bytes=prefixes.size_bytes,
        )

    def _run_tick(self) -> None:
        """Computes `_out` from `_in`, without any access to the host."""
        running = self._in[:, FRAME_SAMPLES] > 0
        heard = self._mimi.encode(self._encoder, self._in[:, :FRAME_SAMPLES], running)
        tokens = self._lm.tick(heard, running, self._limits)
        self._out[:, :FRAME_SAMPLES] = self._mimi.decode(self._decoder, tokens[:, 1:], running)
        self._out[:, FRAME_SAMPLES:] = tokens  # float32 holds whole numbers to 2^24

    def _begin(self, slot: int, session: _Prefilling, hidden: Tensor) -> None:
        self._lm.begin(slot, hidden)
        self._sessions[slot] = _Live(session.position, _most_drawn_from(session.sampling))

    def _keep_prefix(self, slot: int, session: _Prefilling, hidden: Tensor) -> None:
        if not self._prefixes.budget_bytes:
            return
        try:
            self._prefixes.add(self._lm.prefix(slot, session.prompt, hidden))
        except torch.OutOfMemoryError as error:
            log.warning("a prompt is not kept for the next call: %s", error)

    def _clear(self, slot: int) -> None:
        with torch.inference_mode():
            self._lm.clear(slot)
            self._encoder.copy(slot, self._fresh_encoder)
            self._decoder.copy(slot, self._fresh_decoder)

    def _count(self, **more: int) -> None:
        sums = {name: getattr(self._counters, name) + count for name, count in more.items()}
        self._counters = dataclasses.replace(self._counters, **sums)


def _most_drawn_from(sampling: Sampling) -> int:
    text = sampling.text_top_k if sampling.text_temperature else 1
    return max(text, sampling.audio_top_k if sampling.audio_temperature else 1)


def _both_sides(slots: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """float32 [slots, width] on the device, and on the host to copy from or to."""
    host = torch.zeros(slots, width)
    return host.to(device, copy=True), host.pin_memory() if device.type == "cuda" else host


def _step(row: NDArray[np.float32]) -> Step:
    tokens = row[FRAME_SAMPLES:].astype(np.int16)
    return Step(int(tokens[0]), tokens[1:], row[:FRAME_SAMPLES].copy())
