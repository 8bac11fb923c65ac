"""Checks that the codec of this build carries a voice from a phone to an engine, and is fast enough."""

from __future__ import annotations

import time
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from pxbridge import audio
from pxbridge.audio import OggOpusReader, Resampler
from pxbridge.chat_wire import ENGINE_HZ
from pxbridge.doctor.finding import Finding, good, wrong
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import Line, Phone, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LINE_HZ: Final = 8000
LEAST_CORRELATION: Final = 0.85
"""A working codec gives 0.9. Less than this is noise, or other speech."""
MOST_CPU_SHARE: Final = 0.05
"""CPU time that one direction of a call may take, as a share of real time. A tenth of this is usual."""

REINSTALL: Final = "install pxbridge again, from a wheel for this machine, or build it again (`make build`)"


def round_trip() -> Finding:
    """Sends a sentence through the messages of a phone and the codec, and compares what an engine hears."""
    file = resources.files("pxbridge") / "assets" / "caller.ogg"
    speech = OggOpusReader(ENGINE_HZ).read(file.read_bytes())
    said = _int16(Resampler(ENGINE_HZ, LINE_HZ).process(speech))
    messages = _phone_messages(said)
    began_s = time.process_time()
    heard = _int16(Resampler(ENGINE_HZ, LINE_HZ).process(_towards_engine(messages)))
    share = (time.process_time() - began_s) / (len(said) / LINE_HZ)
    correlation = listen(said, heard, LINE_HZ).correlation
    if correlation < LEAST_CORRELATION:
        return wrong("codec", f"a sentence comes out with a correlation of {correlation:.2f}", REINSTALL)
    if share > MOST_CPU_SHARE:
        return wrong(
            "codec",
            f"encoding a sentence takes {share:.0%} of its duration",
            "build pxbridge with optimisation (`make build`), or use a faster processor",
        )
    return good("codec", f"a sentence comes through with a correlation of {correlation:.2f}")


def _phone_messages(said: NDArray[np.int16]) -> list[tuple[float, str]]:
    """When a phone that says this sends each message of its call, and the message."""
    phone = Phone(Script(said, speak_at_s=0.0, hang_up_at_s=len(said) / LINE_HZ), Line(LINE_HZ))
    messages: list[tuple[float, str]] = []
    while not phone.is_over:
        now_s = phone.next_at_s
        messages += [(now_s, item) for item in phone.due(now_s) if isinstance(item, str)]
    return messages


def _towards_engine(messages: Sequence[tuple[float, str]]) -> NDArray[np.float32]:
    """What an engine hears of a phone's messages."""
    line, engine = audio.Line(LINE_HZ), OggOpusReader(ENGINE_HZ)
    heard = [engine.read(line.open_engine(0.0).to_engine)]
    for now_s, message in messages:
        output = line.phone_message(message.encode(), now_s)
        if output is not None:
            heard.append(engine.read(output.to_engine))
    return np.concatenate(heard)


def _int16(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    whole: NDArray[np.int16] = np.clip(np.rint(pcm * 32767.0), -32768, 32767).astype(np.int16)
    return whole
