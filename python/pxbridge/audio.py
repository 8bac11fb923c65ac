"""Sound for Python: resampling, Opus, Ogg Opus, and `Line`, the sound of a whole call.

All of it is written in Rust; each class has its documentation at run time. Samples are mono, in contiguous
1-D numpy arrays of int16, or of float32 with full scale at ±1.0. Rust reads them in place, and returns them
in arrays that own Rust's memory, so nothing is copied between the two.
"""

from pxbridge._native import (
    AgentHeard,
    AllPlayed,
    EngineSilent,
    Line,
    LineOutput,
    OddPayloads,
    OggOpusReader,
    OggOpusWriter,
    OpusDecoder,
    OpusEncoder,
    RateMismatch,
    Resampler,
)

__all__ = [
    "AgentHeard",
    "AllPlayed",
    "EngineSilent",
    "Line",
    "LineOutput",
    "OddPayloads",
    "OggOpusReader",
    "OggOpusWriter",
    "OpusDecoder",
    "OpusEncoder",
    "RateMismatch",
    "Resampler",
]
