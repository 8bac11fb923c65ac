"""The sound of the benches' calls, as it passes a bridge: what the callers say and what the engine echoes.

Whoever plays a call without a bridge, or without a codec, uses the same sound as the calls that pass one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pxbridge.audio import OpusDecoder, OpusEncoder
from pxbridge.commands.load_callers import RATE_HZ, spoken

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINE_HZ = 24_000
FRAME_MS = 20
"""A packet of a caller's towards the engine."""
STEP_MS = 80
"""A packet of the engine's."""


def frames() -> list[NDArray[np.int16]]:
    """What a caller says over and over, in pieces of `FRAME_MS`."""
    said = spoken()
    return np.split(said, len(said) * 1000 // (RATE_HZ * FRAME_MS))


def echo_packets() -> list[bytes]:
    """The rehearsal engine's echo of it, in packets of `STEP_MS`, over and over too."""
    to_engine, engine_hears = OpusEncoder(RATE_HZ), OpusDecoder(ENGINE_HZ)
    heard = np.concatenate([engine_hears.decode(to_engine.encode(frame)) for frame in frames()])
    # As `sphn` 0.1 encodes, and as the rehearsal engine does.
    from_engine = OpusEncoder(
        ENGINE_HZ, application="voip", bitrate_bps=24_750, complexity=9, frame_ms=STEP_MS
    )
    steps = np.split(heard, len(heard) * 1000 // (ENGINE_HZ * STEP_MS))
    return [from_engine.encode(step) for step in steps]
