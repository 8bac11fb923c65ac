"""The clients that PersonaPlex has, in conversation with the engine's server: their own codecs, real
sockets, real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.personaplex.fake_model import FakeStepper
from tests.personaplex.rig import FakeText, FakeTokenizer, FakeVoices

from pxbridge.personaplex.engine import Engine, EngineThread
from pxbridge.personaplex.personas import FilePersonas
from pxbridge.personaplex.places import Places
from pxbridge.personaplex.server import EngineServer, Rules, listen
from pxbridge.personaplex.telemetry import Telemetry
from pxbridge.wav import resample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    Pcm = NDArray[np.float32]

ROOT = Path(__file__).parents[2]
PYTHON_0_1 = ROOT / ".venv-sphn-0.1" / "bin" / "python"
NODE_ENVIRONMENT = ROOT / ".venv-opus-recorder"
CLIENT_S = 6.0
TALK_S = 2.0
QUERY = "voice_prompt=NATF0.pt&text_prompt=You%20are%20kind."


def speech(rate_hz: int) -> Pcm:
    with wave.open(str(ROOT / "tests" / "vectors" / "speech_24k.wav")) as file:
        pcm = np.frombuffer(file.readframes(round(TALK_S * 24_000)), np.int16)
    return resample(pcm.astype(np.float32) / np.float32(32768), 24_000, rate_hz)


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """An engine that says what it hears; its URL."""
    stepper, telemetry = FakeStepper(4), Telemetry()
    personas = FilePersonas(FakeVoices(), FakeTokenizer(), stepper.longest_prompt)
    running = Engine(stepper, telemetry, prepare=personas.read_all)
    server = EngineServer(running, Places(4, 0), personas, FakeText, telemetry, Rules())
    async with listen(server, "127.0.0.1", 0):
        with EngineThread(running) as thread:
            await running.ready.wait()
            yield f"ws://127.0.0.1:{server.port}/api/chat"
        assert await thread.join(10.0)


async def converse(command: list[str | Path], said: Pcm) -> tuple[Pcm, dict[str, Any]]:
    """Runs a client; what it heard, and what it tells of its messages."""
    client = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        heard, told = await client.communicate(said.tobytes())
    assert client.returncode == 0, told[-500:].decode(errors="replace")
    return np.frombuffer(heard, np.float32), json.loads(told)


def correlation(heard: Pcm, said: Pcm, most_lag: int) -> float:
    """How like what was said what was heard is, at the lag where it is most."""
    size = 1 << (len(heard) + len(said)).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    lag = int(np.argmax(product[:most_lag]))
    both = min(len(said), len(heard) - lag)
    a, b = heard[lag : lag + both], said[:both]
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def assert_heard(heard: Pcm, said: Pcm, told: dict[str, Any], rate_hz: int) -> None:
    assert told["kinds"].keys() == {"0", "1", "2"}
    assert told["kinds"]["0"] == 1
    assert set(told["text"]) == set(" né")
    assert len(said) - len(heard) <= 0.17 * rate_hz, "two frames may still be in the codecs"
    assert correlation(heard, said[: len(heard)], rate_hz // 2) > 0.9


@pytest.mark.parametrize("version", ["0.1", "0.2"])
async def test_kyutais_client_converses(version: str) -> None:
    python = PYTHON_0_1 if version == "0.1" else Path(sys.executable)
    assert python.exists(), "there is no environment with sphn 0.1; `make interop` makes it"
    said = speech(24_000)
    async with engine() as url:
        script = Path(__file__).with_name("sphn_client.py")
        heard, told = await converse([python, script, f"{url}?{QUERY}", str(CLIENT_S)], said)
    assert_heard(heard, said, told, 24_000)


async def test_nvidias_web_client_converses() -> None:
    node = NODE_ENVIRONMENT / "bin" / "node"
    assert node.exists(), "there is no environment with opus-recorder; `make interop` makes it"
    said = speech(48_000)
    async with engine() as url:
        script = Path(__file__).with_name("opus_recorder_client.cjs")
        folder = NODE_ENVIRONMENT / "node_modules" / "opus-recorder"
        chosen = "text_temperature=0.7&text_topk=25&audio_temperature=0.8&audio_topk=250&pad_mult=0"
        web = f"{url}?{QUERY}&{chosen}"
        heard, told = await converse([node, script, folder, web, str(CLIENT_S)], said)
    assert_heard(heard, said, told, 48_000)
