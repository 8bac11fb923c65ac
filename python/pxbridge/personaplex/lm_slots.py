"""The language model's conversations: a position, tokens, sampling and a KV cache for each slot, in place.

A tick is arithmetic on tensors whose shapes and places never change, without a word from the host, so that
a CUDA graph can hold it. Slots that do not step keep their state; only their next position's key is
written, and written over later.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import torch

from pxbridge.personaplex.attention import KvCache
from pxbridge.personaplex.config import CODEBOOKS, STREAMS
from pxbridge.personaplex.prompt import SILENCE, SINE, VoiceEmbeddings, rows_of
from pxbridge.personaplex.sampling import draw, noise_keys
from pxbridge.personaplex.stepper import MAX_TOP_K, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from pxbridge.personaplex.attention import Pin, Reach
    from pxbridge.personaplex.lm import LanguageModel
    from pxbridge.personaplex.prompt import Prompt
    from pxbridge.personaplex.varlen import FilledAttention

DRAWN_STREAMS = 1 + CODEBOOKS
"""Text and the agent's codes; the caller's are given."""


@dataclass(frozen=True, eq=False)
class _State:
    """The next input of each slot and how its tokens are drawn, one row per slot.

    Attributes:
        position: int64 [slots], the next step's.
        text: int64 [slots], its text token.
        agent: int64 [slots, 8], the agent's semantic code of this position and acoustic codes of the last.
        heard: int64 [slots, 7], the caller's acoustic codes of the last position.
        seed: int64 [slots].
        text_temperature: float32 [slots].
        text_top_k: int64 [slots].
        audio_temperature: float32 [slots].
        audio_top_k: int64 [slots].
    """

    position: Tensor
    text: Tensor
    agent: Tensor
    heard: Tensor
    seed: Tensor
    text_temperature: Tensor
    text_top_k: Tensor
    audio_temperature: Tensor
    audio_top_k: Tensor

    def row(self, slot: int) -> Self:
        """One slot, as views of it."""
        return type(self)(*(getattr(self, item.name)[slot : slot + 1] for item in fields(self)))


@dataclass(frozen=True)
class Limits:
    """Bounds of a tick's work. The host may know narrow ones; a CUDA graph needs bounds for any tick.

    Attributes:
        reach: The part of the cache that is read.
        top_k: The most tokens that a slot which steps draws from.
    """

    reach: Reach
    top_k: int


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a prompt, computed.

    Attributes:
        prompt: The whole prompt that this is the beginning of, or all of.
        keys: [layers, positions, heads, head_dim], rotated.
        values: The same shape.
        hidden: [1, dim], the temporal transformer's vector of the last position.
    """

    prompt: Prompt
    keys: Tensor
    values: Tensor
    hidden: Tensor

    @property
    def size_bytes(self) -> int:
        """Its memory, in bytes."""
        return sum(x.numel() * x.element_size() for x in (self.keys, self.values, self.hidden))


class LmSlots:
    """Conversations of a language model.

    Args:
        model: The weights.
        slots: How many conversations.
        context: Positions that stay in attention.
        pin: What happens to the prompt when the context is full.
        filled: Attention that reads only what is filled, where the device has it.

    Attributes:
        cache: Keys and values.
    """

    def __init__(
        self, model: LanguageModel, slots: int, context: int, pin: Pin, filled: FilledAttention | None = None
    ) -> None:
        device = model.device

        def whole(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.int64, device=device)

        def real() -> Tensor:
            return torch.zeros(slots, device=device)

        self.model = model
        self.cache = KvCache(model.config, slots, context, pin, model.dtype, device, filled)
        self._state = _State(
            position=whole(),
            text=whole(),
            agent=whole(CODEBOOKS),
            heard=whole(CODEBOOKS - 1),
            seed=whole(),
            text_temperature=real(),
            text_top_k=whole() + 1,
            audio_temperature=real(),
            audio_top_k=whole() + 1,
        )
        # The last frame of every prompt: what the first step finds as the frame before it.
        self._prompt_agent = torch.tensor(SILENCE, device=device)
        self._prompt_heard = torch.tensor(SINE[1:], device=device)

    @property
    def widest(self) -> Limits:
        """Limits that hold for any tick, and give the same shapes for each."""
        return Limits(self.cache.whole, MAX_TOP_K)

    def limits(self, position: int, top_k: int) -> Limits:
        """Limits of a tick in which no slot steps beyond a position, or draws from more than `top_k`."""
        return Limits(self.cache.reach(position), top_k)

    def tick(self, heard: Tensor, stepping: Tensor, limits: Limits) -> Tensor:
        """Steps slots by one position.

        Args:
            heard: int64 [slots, 8], the caller's codes of this frame.
            stepping: bool [slots]. The others stay as they are, and what is returned for them means nothing.
            limits: The bounds for the slots that step.

        Returns:
            int64 [slots, 9], the frame that is complete now: text and the agent's codes.
        """
        state = self._state
        tokens = torch.cat([state.text[:, None], state.agent, heard[:, :1], state.heard], 1)
        x = self.model.embed(tokens, state.position)[:, None]
        hidden = self.model.temporal(x, self.cache.tick(state.position, limits.reach))[:, 0]
        text, agent = self._drawn(state, hidden, state.position, CODEBOOKS, limits.top_k)
        complete = torch.cat([state.text[:, None], state.agent[:, :1], agent[:, 1:]], 1)
        one = stepping[:, None]
        torch.where(stepping, text, state.text, out=state.text)
        torch.where(one, agent, state.agent, out=state.agent)
        torch.where(one, heard[:, 1:], state.heard, out=state.heard)
        state.position.add_(stepping)
        return complete

    def prompt_embeddings(self, prompt: Prompt) -> Tensor:
        """Embeds a prompt.

        Returns:
            [positions, dim].

        Raises:
            ValueError: A token or a voice that does not fit this model. (On CUDA a token out of range would
                end the process's use of the card, and with it all conversations.)
        """
        config, device = self.model.config, self.model.device
        rows = rows_of(prompt, config.existing_text_padding_id)
        limits = [config.text_card] + [config.card] * (STREAMS - 1)  # the initial tokens may stand in a `.pt`
        if (rows.tokens < 0).any() or (rows.tokens > limits).any():
            raise ValueError(f"a prompt's text is of 0 to {limits[0]}, its codes are of 0 to {limits[1]}")
        tokens = torch.from_numpy(rows.tokens).to(device)
        positions = torch.arange(rows.first, rows.first + len(tokens), device=device)
        embedded = self.model.embed(tokens, positions)
        if not isinstance(prompt.voice, VoiceEmbeddings):
            return embedded
        voice = prompt.voice.embeddings
        if voice.ndim != 2 or voice.shape[1] != config.dim:
            raise ValueError(f"a voice of shape {voice.shape}: this model takes [positions, {config.dim}]")
        return torch.cat([torch.from_numpy(voice).to(device, self.model.dtype), embedded])

    def open(self, slot: int, sampling: Sampling, pinned: int) -> None:
        """Begins a conversation at position 0.

        Args:
            slot: The slot's number. It must be cleared.
            sampling: How its tokens are drawn.
            pinned: Positions of its prompt.
        """
        state = self._state.row(slot)
        state.seed.fill_((sampling.seed + 2**63) % 2**64 - 2**63)
        state.text_temperature.fill_(sampling.text_temperature)
        state.text_top_k.fill_(sampling.text_top_k)
        state.audio_temperature.fill_(sampling.audio_temperature)
        state.audio_top_k.fill_(sampling.audio_top_k)
        self.cache.pinned[slot] = 0 if self.cache.pin == "off" else pinned

    def prefill(self, slot: int, embeddings: Tensor, start: int) -> Tensor:
        """Computes the next positions of a slot's prompt.

        Args:
            slot: The slot's number.
            embeddings: [positions, dim], at least one.
            start: The first one's position.

        Returns:
            [1, dim], the temporal transformer's vector of the last position, for `begin`.
        """
        length = len(embeddings)
        hidden = self.model.temporal(embeddings[None], self.cache.chunk(slot, start, length))
        self._state.position[slot] = start + length
        return hidden[:, -1]

    def install(self, slot: int, prefix: Prefix, positions: int) -> None:
        """Copies the first positions of a prefix into a slot, instead of computing them."""
        self.cache.keys[:, slot, :positions] = prefix.keys[:, :positions]
        self.cache.values[:, slot, :positions] = prefix.values[:, :positions]
        self._state.position[slot] = positions

    def prefix(self, slot: int, prompt: Prompt, hidden: Tensor) -> Prefix:
        """Copies a slot's prompt out of it, once it is prefilled and before its ring wraps."""
        keys, values = (x[:, slot, : prompt.positions].clone() for x in (self.cache.keys, self.cache.values))
        return Prefix(prompt, keys, values, hidden.clone())

    def begin(self, slot: int, hidden: Tensor) -> None:
        """Draws what the first step needs, from the vector of the prompt's last position."""
        state = self._state.row(slot)
        text, semantic = self._drawn(state, hidden, state.position - 1, 1, MAX_TOP_K)
        state.text.copy_(text)
        state.agent.copy_(self._prompt_agent)
        state.agent[:, :1] = semantic
        state.heard.copy_(self._prompt_heard)

    def clear(self, slot: int) -> None:
        """Removes a slot's conversation."""
        for tensor in (self._state.position, self._state.text, self._state.agent, self._state.heard):
            tensor[slot] = 0
        self.cache.clear(slot)

    def _drawn(
        self, state: _State, hidden: Tensor, position: Tensor, codes: int, most: int
    ) -> tuple[Tensor, Tensor]:
        """Text [rows] and codes [rows, codes] that follow a position."""
        keys = noise_keys(state.seed, position, DRAWN_STREAMS)

        def draw_code(stream: int, logits: Tensor) -> Tensor:
            return draw(logits, state.audio_temperature, state.audio_top_k, keys[:, stream], most)

        logits = self.model.text_logits(hidden)
        text = draw(logits, state.text_temperature, state.text_top_k, keys[:, 0], most)
        return text, self.model.codes(hidden, text, draw_code, codes)
