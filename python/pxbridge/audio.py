"""Samples, packets and pages for Python: resampling, Opus, Ogg Opus and the two directions of a phone line.

All of it is Rust; `pxbridge/_native.pyi` holds the documentation of each class. Samples are mono, in
contiguous 1-D numpy arrays of int16 or of float32 with full scale at ±1.0. They are read where they lie
and returned in arrays that own Rust's memory, so nothing is copied at the border.
"""

from pxbridge._native import (
    AgentHeard,
    AllPlayed,
    Downlink,
    EngineSilent,
    Line,
    LineOutput,
    OggOpusReader,
    OggOpusWriter,
    OpusDecoder,
    OpusEncoder,
    RateMismatch,
    Resampler,
    Uplink,
)

__all__ = [
    "AgentHeard",
    "AllPlayed",
    "Downlink",
    "EngineSilent",
    "Line",
    "LineOutput",
    "OggOpusReader",
    "OggOpusWriter",
    "OpusDecoder",
    "OpusEncoder",
    "RateMismatch",
    "Resampler",
    "Uplink",
]
