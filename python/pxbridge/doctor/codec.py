"""Whether this machine's build of the codec brings a voice through, and fast enough."""

from __future__ import annotations

import time
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from pxbridge.audio import OggOpusReader, Resampler, Uplink
from pxbridge.doctor.finding import Finding, good, wrong
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.telephony.exotel.messages import Exotel

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE_HZ: Final = 8000
ENGINE_HZ: Final = 24_000
CHUNK_S: Final = 0.1
CORRELATION: Final = 0.85
"""Speech through the codec is found again with 0.95 or more; below this it is somebody else's, or noise."""
SHARE: Final = 0.05
"""Of the processor's time that one direction of a call may take: usual is a tenth of that."""

REINSTALL: Final = "install pxbridge again, from a wheel for this machine, or build it anew (`make build`)"


def round_trip() -> Finding:
    """Takes a sentence from the phone's messages to what an engine hears."""
    file = resources.files("pxbridge") / "assets" / "caller.ogg"
    speech = OggOpusReader(ENGINE_HZ).read(file.read_bytes())
    said = _int16(Resampler(ENGINE_HZ, LINE_HZ).process(speech))
    began_s = time.process_time()
    heard = _int16(Resampler(ENGINE_HZ, LINE_HZ).process(_towards_engine(said)))
    share = (time.process_time() - began_s) / (len(said) / LINE_HZ)
    correlation = listen(said, heard, LINE_HZ).correlation
    if correlation < CORRELATION:
        return wrong("codec", f"a sentence comes out with a correlation of {correlation:.2f}", REINSTALL)
    if share > SHARE:
        return wrong(
            "codec",
            f"a sentence takes {share:.0%} of its length to encode",
            "build it optimised (`make build`), or give it a faster processor",
        )
    return good("codec", f"a sentence comes through with a correlation of {correlation:.2f}")


def _towards_engine(said: NDArray[np.int16]) -> NDArray[np.float32]:
    exotel, uplink, engine = Exotel("doctor"), Uplink(LINE_HZ), OggOpusReader(ENGINE_HZ)
    heard = [engine.read(uplink.open(0.0))]
    chunk = round(CHUNK_S * LINE_HZ)
    for n in range(len(said) // chunk):
        payload = said[n * chunk : (n + 1) * chunk].tobytes()
        ogg = uplink.receive(exotel.media(payload, round(n * CHUNK_S * 1000)).encode(), (n + 1) * CHUNK_S)
        heard.append(engine.read(ogg or b""))
    return np.concatenate(heard)


def _int16(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    whole: NDArray[np.int16] = np.clip(np.rint(pcm * 32767.0), -32768, 32767).astype(np.int16)
    return whole
