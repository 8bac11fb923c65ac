"""The Rust core: samples, packets and pages. `pxbridge.audio` is its public face.

Arrays that are given are 1-D, C-contiguous, mono, of dtype int16 or float32 (full scale ±1.0); they are
borrowed, and read where they lie (int16 is widened from there, as the arithmetic is in float32). Anything
else raises `TypeError` (not such an array, wrong dtype) or `ValueError` (wrong shape, strided), which says
what was expected.

Arrays that come back own memory that Rust allocated. Where a method takes ``out=``, a writeable array of
int16 or float32, the samples are written to its front instead and a view of that front is returned.
int16 output is rounded and saturated, never wrapped.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__version__: str
OPTIMISED: bool
"""False for a debug build, which is many times slower."""

Pcm = NDArray[np.int16] | NDArray[np.float32]
_Bytes = bytes | bytearray | memoryview
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
        """Forgets all input, as if new."""

    @property
    def delay_s(self) -> float:
        """The delay of a sound from input to output, in seconds."""

class OpusEncoder:
    """Makes Opus packets (RFC 6716): mono, VBR, without DTX.

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
        """The delay from the input to the decoded sound, in samples."""

    @property
    def clipped_samples(self) -> int:
        """Samples beyond full scale so far, which were clipped."""

class OpusDecoder:
    """Reads Opus packets of any mode, frame size and channel count.

    Args:
        rate_hz: Of the samples to give: 8000, 12000, 16000, 24000 or 48000, whatever the encoder had.
        channels: 1, or 2 for interleaved stereo.
    """

    def __init__(self, rate_hz: int = 24000, channels: int = 1) -> None: ...
    @overload
    def decode(self, packet: _Bytes, out: None = None) -> NDArray[np.float32]: ...
    @overload
    def decode(self, packet: _Bytes, out: _Pcm) -> _Pcm:
        """The samples of one packet, at most 120 ms; `out` must have room for that. Releases the GIL.

        A packet that cannot be decoded is concealed for as long as the one before it lasted.
        """

    def conceal(self, samples: int) -> NDArray[np.float32]:
        """The expected continuation of the last sound, which fades to silence within 120 ms.

        Releases the GIL.
        """

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
    @property
    def clipped_samples(self) -> int:
        """Samples beyond full scale so far, which were clipped."""

    def headers(self) -> bytes:
        """The two header pages. They are sent once, before any audio."""

    def write(self, pcm: Pcm) -> bytes:
        """The pages that these samples complete; the rest waits for more. Releases the GIL."""

    def finish(self) -> bytes:
        """The last pages: what waits, filled up with silence, with the end-of-stream mark.

        The last page tells a file's reader where the sound ends (RFC 7845 section 4.4).
        """

class OggOpusReader:
    """An Ogg Opus stream to mono PCM, for bytes in any split and in any condition. It never fails:
    damage is counted, lost pages are concealed, and reading goes on with the next whole page.

    Args:
        rate_hz: Of the samples to give: 8000, 12000, 16000, 24000 or 48000.
        trim: For files: drops the encoder's padding, as RFC 7845 says in sections 4.2 and 4.4, so that as
            many samples come out as were written. A live stream gives everything, because engines count its
            positions wrongly.
    """

    def __init__(self, rate_hz: int = 24000, *, trim: bool = False) -> None: ...
    @overload
    def read(self, data: _Bytes, out: None = None) -> NDArray[np.float32]: ...
    @overload
    def read(self, data: _Bytes, out: _Pcm) -> _Pcm:
        """All samples that these bytes complete, at most five minutes at once. What does not fit into `out`
        comes first the next time. Releases the GIL.
        """

    def stats(self) -> dict[str, int]:
        """Counters so far: pages, lost and damaged ones, bytes of junk, samples, concealed samples."""

    @property
    def waiting_samples(self) -> int:
        """Samples that did not fit into the last `out`."""

    def conceal(self, samples: int) -> NDArray[np.float32]:
        """The expected continuation of the last sound, for when nothing has come in time.

        Releases the GIL.
        """

class AgentHeard:
    """The first sound of an agent is on its way to the caller."""

    __match_args__ = ("after_s",)
    @property
    def after_s(self) -> float:
        """The time until the caller hears it, as estimated, in seconds.

        Counted from the line's first input, or from when the agent that was heard last was gone.
        """

class AllPlayed:
    """After `Line.finish`: the caller has heard the last words, or waiting for that is over."""

class EngineSilent:
    """The engine does not answer, so from now on audio is held back from it."""

    __match_args__ = ("for_s",)
    @property
    def for_s(self) -> float:
        """How long its answer has been due, in seconds."""

class OddPayloads:
    """The phone sends 16-bit payloads of an odd length. Told once, when it is known how to read them."""

    __match_args__ = ("halves",)
    @property
    def halves(self) -> bool:
        """Whether the last byte is half of a sample, whose other half begins the next payload. Else it is
        dropped.
        """

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

LineEvent = AgentHeard | AllPlayed | EngineSilent | OddPayloads | RateMismatch

class LineOutput:
    """Everything that follows from one input of a `Line`."""

    @property
    def to_phone(self) -> list[tuple[bytes, bool]]:
        """Messages for the phone's socket, in their order, and for each whether it is text."""

    @property
    def to_engine(self) -> bytes:
        """Bytes for the engine's socket; may be empty."""

    @property
    def ping(self) -> bool:
        """Whether the phone's socket shall be pinged now; tell `Line.pong` how long it took."""

    @property
    def wake_s(self) -> float:
        """When `Line.poll` is due if nothing arrives before, in seconds; infinity for never."""

    @property
    def events(self) -> tuple[LineEvent, ...]:
        """Events, in their order."""

class Line:
    """A whole call, both directions: messages and the time go in, and everything that follows comes out.

    Make one call per message. Each returns a `LineOutput`: send its bytes, ping if it says so, and call
    `poll` at its `wake_s` if nothing else was called before. Times are `now_s`, in seconds on any monotonic
    clock, the same for every call, and never backwards. Call `poll` once when the call starts.

    Args:
        rate_hz: Rate of the phone's audio: 8000, 16000 or 24000.
        carrier: Whose messages the phone's socket carries: ``exotel`` or ``browser``.
        encoding: Of the payloads: ``pcm16`` (16-bit little-endian), ``mulaw`` or ``alaw`` (both G.711).
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
        encoding: Literal["pcm16", "mulaw", "alaw"] = "pcm16",
        stream_id: str = "",
        profile: Literal["standard", "strict", "low-delay"] = "standard",
        gate_ms: int | None = None,
        max_backlog_ms: int | None = None,
        barge_in_ms: int | None = None,
        serial: int | None = None,
    ) -> None: ...
    def phone_message(self, message: _Bytes, now_s: float, is_text: bool = True) -> LineOutput | None:
        """A message from the phone. Releases the GIL.

        None: it is neither media nor a mark that came back, and nothing has changed. Read it as an event.
        """

    def engine_audio(self, ogg: _Bytes, now_s: float) -> LineOutput:
        """Bytes of the engine's Ogg Opus stream, in any split. Releases the GIL."""

    def mark_played(self, name: str, now_s: float) -> LineOutput:
        """The phone has played everything before this mark. A mark that is not ours is ignored."""

    def pong(self, rtt_s: float, now_s: float) -> LineOutput:
        """A ping of the phone's socket came back after `rtt_s`."""

    def poll(self, now_s: float) -> LineOutput:
        """Does what is due though nothing arrived. Releases the GIL.

        Call it once when the call starts, then at or after `LineOutput.wake_s`.
        """

    def open_engine(self, now_s: float) -> LineOutput:
        """An engine is ready: it gets the headers of its stream and the newest of the caller's audio.

        Releases the GIL.
        """

    def close_engine(self, now_s: float) -> LineOutput:
        """The engine is gone: the rest of its audio is sent.

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
        """Drops everything not heard: sends a clear, if the phone's side still holds audio."""

    def finish(self, now_s: float) -> LineOutput:
        """Nothing more will be said: the rest is sent, and a mark behind it.

        `AllPlayed` follows, now or later.
        """

    @property
    def wake_s(self) -> float:
        """When `poll` is due if nothing arrives before, in seconds; infinity for never."""

    def playing_s(self, now_s: float) -> float:
        """The time for which the bridge's own sound will still be heard, in seconds."""

    @property
    def paused_s(self) -> float | None:
        """The duration of the agent's pause so far, in seconds; None while it has not spoken."""

    @property
    def is_drained(self) -> bool:
        """After `finish`: whether the caller has heard the last words, or waiting for that is over."""

    @property
    def exchanged_s(self) -> tuple[float, float]:
        """The duration of the audio that engines were sent, and that they sent, in seconds."""

    @property
    def spoken_s(self) -> tuple[float, float]:
        """How long the caller has spoken, and the agent, in seconds."""

    def keep_audio(self) -> None:
        """From now on keeps what the caller says and hears, for `take_said` and `take_heard`; at most 60 s of
        each.
        """

    def take_said(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """The caller's audio since the last time: int16 samples, and (time, count) of its pieces.

        The time is when a piece came, less its duration: the network's delay is not taken off.
        """

    def take_heard(self, now_s: float) -> tuple[NDArray[np.int16], list[tuple[float, int]]]:
        """The audio heard since the last time: int16 samples, and (time, count) of its pieces.

        The times are estimates. Audio that a clear took back is not in it.
        """

    def stats(self) -> dict[str, dict[str, float]]:
        """Counters so far: ``uplink`` (phone to engine) and ``downlink`` (engine to phone), a dict for each.

        They are in samples of the line's rate unless the name says otherwise.
        """

def lone_frame(data: bytes, *, masked: bool) -> bytes | None:
    """The payload of `data` if it is exactly one frame: a message below 64 KiB, or a pong (RFC 6455 §5.2).

    Args:
        data: What one read of a socket gave.
        masked: Whether the peer must mask, as clients do. A frame of the other kind is none here.

    Returns:
        The payload without its mask; None for everything else, which a parser must read.
    """

def whole_frame(first_byte: int, payload: bytes, key: bytes | None = None) -> bytes:
    """The bytes of one frame that is a whole message (RFC 6455 §5.2).

    Args:
        first_byte: FIN and the opcode.
        payload: Of any length.
        key: Four random bytes to mask the payload with, as a client must (§5.3).

    Raises:
        ValueError: A key of another length.
    """

def unmasked_frames(messages: Sequence[tuple[bytes, bool]]) -> bytes:
    """The bytes of messages, each with a flag that is true for a text message, in a frame each."""
