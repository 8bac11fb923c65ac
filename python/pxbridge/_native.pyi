"""The Rust core: samples, packets and pages. `pxbridge.audio` is its public face.

Arrays that are given are 1-D, C-contiguous, mono, of dtype int16 or float32 (full scale ±1.0); they are
borrowed, and read where they lie (int16 is widened from there, as the arithmetic is in float32). Anything
else raises `TypeError` (not such an array, wrong dtype) or `ValueError` (wrong shape, strided), which says
what was expected.

Arrays that come back own memory that Rust allocated. Where a method takes ``out=``, a writeable array of
int16 or float32, the samples are written to its front instead and a view of that front is returned.
int16 output is rounded and saturated, never wrapped.
"""

from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__version__: str
OPTIMISED: bool
"""False for a debug build, which is many times slower."""

Pcm = NDArray[np.int16] | NDArray[np.float32]
_Pcm = TypeVar("_Pcm", NDArray[np.int16], NDArray[np.float32])
Application = Literal["voip", "audio", "lowdelay"]

class Resampler:
    """A stream of samples from one rate to another.

    The samples that come out do not depend on how the input is cut into blocks.

    Args:
        from_hz: 8000, 16000 or 24000.
        to_hz: The same; equal to `from_hz` it passes samples through.

    Raises:
        ValueError: Another rate.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None: ...
    @overload
    def process(self, pcm: _Pcm, out: None = None) -> _Pcm: ...
    @overload
    def process(self, pcm: Pcm, out: _Pcm) -> _Pcm: ...
    def reset(self) -> None:
        """Forget all input, as if new."""

    @property
    def delay_s(self) -> float:
        """How much later a sound is in the output than in the input, in seconds."""

class OpusEncoder:
    """Makes Opus packets (RFC 6716), mono, VBR, never silent by DTX.

    Args:
        rate_hz: Of the samples: 8000, 12000, 16000, 24000 or 48000.
        application: What libopus tunes for; ``lowdelay`` is CELT alone, with 2.5 ms of look-ahead.
        bitrate_bps: 6000 to 510000. The defaults are the settings used towards an engine.
        complexity: libopus' effort, 0 to 10.
        frame_ms: 2.5, 5, 10, 20, 40, 60, 80, 100 or 120.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
        self,
        rate_hz: int = 24000,
        *,
        application: Application = "lowdelay",
        bitrate_bps: int = ...,
        complexity: int = ...,
        frame_ms: float = 20.0,
    ) -> None: ...
    def encode(self, pcm: Pcm) -> bytes:
        """One packet of exactly `frame_samples` samples. Releases the GIL.

        Raises:
            ValueError: Another number of samples.
        """

    @property
    def frame_samples(self) -> int:
        """Samples in a packet."""

    @property
    def lookahead_samples(self) -> int:
        """By how many samples the decoded sound is later than the input."""

class OpusDecoder:
    """Reads Opus packets of any mode, frame size and channel count.

    Args:
        rate_hz: Of the samples to give: 8000, 12000, 16000, 24000 or 48000, whatever the encoder had.
        channels: 1, or 2 for interleaved stereo.
    """

    def __init__(self, rate_hz: int = 24000, channels: int = 1) -> None: ...
    @overload
    def decode(self, packet: bytes, out: None = None) -> NDArray[np.float32]: ...
    @overload
    def decode(self, packet: bytes, out: _Pcm) -> _Pcm:
        """The samples of one packet, at most 120 ms; `out` must have room for that. Releases the GIL.

        A packet that cannot be decoded is concealed for as long as the one before it lasted.
        """

    def conceal(self, samples: int) -> NDArray[np.float32]:
        """What the last sound would have gone on like; fades to silence within 120 ms. Releases the GIL."""

class OggOpusWriter:
    """PCM to an Ogg Opus stream (RFC 7845) as PersonaPlex, moshi and `sphn` take it: one packet a page.

    Args:
        channels: 1, or 2 for interleaved stereo (for files; the engines' wire is mono).
        serial: The stream's serial number; random by default.

    The other arguments are those of `OpusEncoder`.
    """

    def __init__(
        self,
        rate_hz: int = 24000,
        *,
        application: Application = "lowdelay",
        bitrate_bps: int = ...,
        complexity: int = ...,
        frame_ms: float = 20.0,
        channels: Literal[1, 2] = 1,
        serial: int | None = None,
    ) -> None: ...
    def headers(self) -> bytes:
        """The two header pages. To be sent once, before any audio."""

    def write(self, pcm: Pcm) -> bytes:
        """The pages that these samples complete; what fills no packet waits for more. Releases the GIL."""

    def finish(self) -> bytes:
        """The last page: what is waiting, filled up with silence, with the end-of-stream mark."""

class OggOpusReader:
    """An Ogg Opus stream to mono PCM, for bytes in any split and in any condition. It never fails:
    damage is counted, lost pages are concealed, and reading goes on with the next whole page.

    Args:
        rate_hz: Of the samples to give: 8000, 12000, 16000, 24000 or 48000.
    """

    def __init__(self, rate_hz: int = 24000) -> None: ...
    @overload
    def read(self, data: bytes, out: None = None) -> NDArray[np.float32]: ...
    @overload
    def read(self, data: bytes, out: _Pcm) -> _Pcm:
        """All samples that these bytes complete. What does not fit into `out` comes first the next time.

        Releases the GIL.
        """

    def stats(self) -> dict[str, int]:
        """What it met so far: pages, lost and damaged ones, bytes of junk, samples and concealed samples."""

    @property
    def waiting_samples(self) -> int:
        """Samples that did not fit into the last `out`."""

    def conceal(self, samples: int) -> NDArray[np.float32]:
        """What the last sound would have gone on like, for when nothing has come in time."""

class AgentHeard:
    """The first sound of an agent is on its way to the caller."""

    __match_args__ = ("after_s",)
    @property
    def after_s(self) -> float:
        """How long the caller had waited for it, in seconds.

        Counted from the line's first input, or from when the last engine was closed.
        """

class AllPlayed:
    """After `Line.finish`: the caller has heard the last words, or waiting for that is over."""

class EngineSilent:
    """The engine does not answer, so from now on audio is held back from it."""

    __match_args__ = ("for_s",)
    @property
    def for_s(self) -> float:
        """For how long it has owed an answer, in seconds."""

class RateMismatch:
    """The phone sends at another rate than the line has: voices sound slow and deep, or fast and high."""

    __match_args__ = ("claimed_hz", "measured_hz", "likely_hz")
    @property
    def claimed_hz(self) -> int:
        """The line's rate, in hertz."""

    @property
    def measured_hz(self) -> int:
        """Samples that came per second."""

    @property
    def likely_hz(self) -> int:
        """The possible rate that is nearest to that."""

LineEvent = AgentHeard | AllPlayed | EngineSilent | RateMismatch

class LineOutput:
    """Everything that follows from one input of a `Line`."""

    @property
    def to_phone(self) -> list[tuple[bytes, bool]]:
        """Messages for the phone's socket, in their order, and for each whether it is text."""

    @property
    def to_engine(self) -> bytes:
        """Bytes for the engine; may be none."""

    @property
    def ping(self) -> bool:
        """Whether the phone's socket shall be pinged now; tell `Line.pong` how long it took."""

    @property
    def wake_s(self) -> float:
        """When `Line.poll` is due if nothing arrives before, in seconds; infinity for never."""

    @property
    def events(self) -> tuple[LineEvent, ...]:
        """What happened."""

class Line:
    """A whole call, both directions: messages and time go in, and everything that follows comes out.

    Make one call per message. Each returns a `LineOutput`: send its bytes, ping if it says so, and call
    `poll` at its `wake_s` if nothing else was called before. Times are `now_s`, in seconds on any monotonic
    clock, the same for every call, and never backwards. Call `poll` once when the call starts.

    Args:
        rate_hz: Rate of the phone's audio: 8000, 16000 or 24000.
        carrier: Whose messages the phone's socket carries: ``exotel``.
        encoding: Of the payloads: ``pcm16`` (16-bit little-endian) or ``mulaw`` (G.711).
        stream_id: What the carrier calls this stream.
        profile: ``standard``, ``strict`` (payloads of 3,200 bytes or more) or ``low-delay``.
        gate_ms: This much of the phone's first audio is replaced by silence.
        max_backlog_ms: The most of late audio that is still worth hearing.
        barge_in_ms: With more speech than this queued when the agent falls silent for the caller, the queue
            is dropped.
        serial: Serial number of the first Ogg stream towards an engine; random by default.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
        self,
        rate_hz: int,
        *,
        carrier: str = ...,
        encoding: Literal["pcm16", "mulaw"] = "pcm16",
        stream_id: str = "",
        profile: Literal["standard", "strict", "low-delay"] = "standard",
        gate_ms: int | None = None,
        max_backlog_ms: int | None = None,
        barge_in_ms: int | None = None,
        serial: int | None = None,
    ) -> None: ...
    def phone_message(self, message: bytes, now_s: float, is_text: bool = True) -> LineOutput | None:
        """A message from the phone: what follows from it. Releases the GIL.

        None: it is no media and nothing has happened; read it as an event.
        """

    def engine_audio(self, ogg: bytes, now_s: float) -> LineOutput:
        """Bytes of the engine's Ogg Opus stream, in any split. Releases the GIL."""

    def mark_played(self, name: str, now_s: float) -> LineOutput:
        """The phone has played everything before this mark. A mark that is not ours is ignored."""

    def pong(self, rtt_s: float, now_s: float) -> LineOutput:
        """A ping of the phone's socket came back after `rtt_s`."""

    def poll(self, now_s: float) -> LineOutput:
        """What is due although nothing arrived: once when the call starts, then at or after
        `LineOutput.wake_s`. Releases the GIL.
        """

    def open_engine(self, now_s: float) -> LineOutput:
        """An engine is ready: it gets header pages and the newest of the caller's audio. Releases the GIL."""

    def close_engine(self, now_s: float) -> LineOutput:
        """The engine is gone: what it said last is sent.

        The bridge's own sound and another engine may follow.
        """

    def play(self, pcm: Pcm, now_s: float) -> LineOutput:
        """Queues the bridge's own sound, at the line's rate, behind what plays; at most 60 s wait.

        It is played at real time while no engine speaks, and an engine that begins to speak ends it with a
        fade. While one speaks, and after `finish`, it is not played at all.
        """

    def fade_out(self, now_s: float) -> LineOutput:
        """Ends the bridge's own sound with a fade."""

    def flush(self, now_s: float) -> LineOutput:
        """Drops what the caller has not heard: a clear, if the phone's side still holds audio."""

    def finish(self, now_s: float) -> LineOutput:
        """Nothing more will be said: what is left, and a mark behind it.

        `AllPlayed` follows, now or later.
        """

    @property
    def wake_s(self) -> float:
        """When `poll` is due if nothing arrives before, in seconds; infinity for never."""

    def playing_s(self, now_s: float) -> float:
        """How long the bridge's own sound will still be heard, in seconds."""

    @property
    def paused_s(self) -> float | None:
        """How long the agent has paused since it last spoke, in seconds; None while it has not spoken."""

    @property
    def is_drained(self) -> bool:
        """After `finish`: whether the caller has heard the last words, or waiting for that is over."""

    @property
    def exchanged_s(self) -> tuple[float, float]:
        """Seconds of sound that engines were sent, and that came from them."""

    def keep_audio(self) -> None:
        """From now on keeps what the caller says and hears, for `take_said` and `take_heard`; at most 60 s of
        each.
        """

    def take_said(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """What the caller has said since the last time: int16 samples, and (time, count) of its pieces.

        The time is when a piece came, less its duration: one that came late was said earlier.
        """

    def take_heard(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """What the caller has heard since the last time: int16 samples, and (time, count) of its pieces.

        It is known from the model of what the phone's side holds; what a clear took back is not among it.
        """

    def stats(self) -> dict[str, dict[str, float]]:
        """Counters so far: ``uplink`` (phone to engine) and ``downlink`` (engine to phone), a dict for each.

        They are in samples of the line's rate unless the name says otherwise.
        """

class Uplink:
    """Phone to engine: Exotel's media messages in, Ogg Opus out; one call per message.

    Times are `now_s`, seconds on any monotonic clock, the same for every call.

    Args:
        rate_hz: Of the line: 8000, 16000 or 24000.
        encoding: Of its payloads: ``pcm16`` (little-endian) or ``mulaw`` (G.711).
        gate_ms: So much of the phone's first audio is replaced by silence.
        max_backlog_ms: Of audio that comes late, the most that is still worth hearing.
        serial: Of the first Ogg stream; random by default.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
        self,
        rate_hz: int,
        *,
        encoding: Literal["pcm16", "mulaw"] = "pcm16",
        gate_ms: int | None = None,
        max_backlog_ms: int | None = None,
        serial: int | None = None,
    ) -> None: ...
    def receive(self, message: bytes, now_s: float) -> bytes | None:
        """What the engine shall get for a message from the phone; it may be nothing.

        ``None``: the message is no media, and nothing has happened. Releases the GIL.
        """

    def open(self, now_s: float) -> bytes:
        """The engine is ready: header pages and the newest of the caller's audio. Releases the GIL."""

    def close(self, now_s: float) -> None:
        """The engine is gone; the next `open` begins a new stream."""

    def poll(self, now_s: float) -> bytes:
        """What the engine shall get although nothing arrived. To be called at or after `wake_s`."""

    def keep_said(self) -> None:
        """From now on keep what the caller says, for `take_said`; at most 60 s of it."""

    def take_said(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """What the caller has said since the last time: samples, and (time, count) of its pieces.

        The time is when a piece came, less its duration: one that came late was said earlier.
        """

    @property
    def wake_s(self) -> float:
        """When `poll` is due if nothing arrives before; infinity for never."""

    def stats(self) -> dict[str, float]:
        """Counters so far; in samples of the line's rate unless the name says otherwise."""

class Downlink:
    """Engine to phone: Ogg Opus in, messages for Exotel's socket out; one call per message.

    Every media payload is a multiple of 20 ms, which at 8 kHz are Exotel's packets of 320 bytes.

    Args:
        rate_hz: Of the line: 8000, 16000 or 24000.
        stream_sid: From Exotel's ``start``.
        encoding: Of the payloads to make.
        profile: What the Exotel account wants: ``standard``, ``strict`` (payloads of 3,200 bytes or more)
            or ``low-delay``.
        max_backlog_ms: Of audio that comes late, the most that is still worth hearing.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
        self,
        rate_hz: int,
        *,
        stream_sid: str,
        encoding: Literal["pcm16", "mulaw"] = "pcm16",
        profile: Literal["standard", "strict", "low-delay"] = "standard",
        max_backlog_ms: int | None = None,
    ) -> None: ...
    def receive(self, ogg: bytes, now_s: float, uplink: Uplink) -> list[bytes]:
        """The messages that are due after these bytes from the engine, as JSON text. Releases the GIL.

        Args:
            ogg: Bytes of the engine's stream, in any split.
            now_s: The time.
            uplink: The other direction of this call: it knows whether the caller is speaking (for barge-in)
                and in which beat the phone's chunks come (for the delay to begin with).
        """

    def poll(self, now_s: float) -> list[bytes]:
        """The messages that are due although nothing arrived: at the start of the call, then at `wake_s`."""

    def play(self, pcm: NDArray[np.float32] | NDArray[np.int16], now_s: float) -> list[bytes]:
        """Queue the bridge's own sound, at the line's rate, behind what plays; at most 60 s wait.

        It is played at real time while no engine speaks, and an engine that begins to speak cuts it short
        with a fade. While one speaks, and after `finish`, it is not played at all.
        """

    def hush(self, now_s: float) -> list[bytes]:
        """End the bridge's own sound with a fade."""

    def playing_s(self, now_s: float) -> float:
        """How long the bridge's own sound will still be heard."""

    def engine_gone(self, now_s: float) -> list[bytes]:
        """The engine is lost: what it said last. The bridge's own sound and another engine may follow."""

    @property
    def paused_s(self) -> float | None:
        """How long the agent has paused since it last spoke; None while it has not spoken."""

    def flush(self, now_s: float) -> list[bytes]:
        """Drop what the caller has not heard: a ``clear``, if Exotel still holds audio."""

    def finish(self, now_s: float) -> list[bytes]:
        """The agent will say no more: what is left, and a mark behind it (see `heard_out`)."""

    def marked(self, name: str, now_s: float) -> None:
        """The phone echoed a mark; one that is not ours is ignored."""

    def keep_heard(self) -> None:
        """From now on keep what the caller hears, for `take_heard`; at most 60 s of it."""

    def take_heard(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """What the caller has heard since the last time: samples, and (time, count) of its pieces.

        By the model of Exotel's queue; what a ``clear`` took back is not among it.
        """

    def take_ping(self, now_s: float) -> bool:
        """Whether the phone's socket shall be pinged now, to learn how much its line jitters."""

    def round_trip(self, trip_s: float, now_s: float) -> None:
        """A ping came back from the phone's end after `trip_s`."""

    @property
    def heard_out(self) -> bool:
        """After `finish`: whether the caller has heard the last words, or waiting for that is over."""

    @property
    def wake_s(self) -> float:
        """When `poll` is due if nothing arrives before; infinity for never."""

    def stats(self) -> dict[str, float]:
        """Counters so far; in samples of the line's rate unless the name says otherwise."""
