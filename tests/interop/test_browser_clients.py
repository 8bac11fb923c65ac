"""The clients that PersonaPlex has, in conversation with the bridge's console, with their own codecs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.fault.processes import bridge_process, engine_process, fetch
from tests.interop.test_engine_clients import (
    CLIENT_S,
    NODE_ENVIRONMENT,
    PYTHON_0_1,
    QUERY,
    converse,
    speech,
)

from pxbridge.commands.processes import free_port
from pxbridge.simulation.mouth_to_ear import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    Pcm = NDArray[np.float32]


@contextlib.asynccontextmanager
async def console() -> AsyncIterator[str]:
    """A bridge in front of an engine that says what it hears; the address of its console."""
    port = free_port()
    async with (
        engine_process("echo") as engine,
        bridge_process(engines=engine, allow_anonymous="true", console_port=str(port)),
    ):
        yield f"127.0.0.1:{port}"


def assert_heard(heard: Pcm, said: Pcm, told: dict[str, Any], rate_hz: int) -> None:
    assert told["kinds"]["0"] == 1
    assert {"0", "1", "4"} <= told["kinds"].keys()
    # Word for word, because the bridge makes pauses longer and shorter on a line that is not steady.
    hearing = listen(
        np.rint(said * 32767).astype(np.int16),
        np.rint(np.clip(heard, -1, 1) * 32767).astype(np.int16),
        rate_hz,
    )
    assert hearing.correlation > 0.7, "other speech stays below 0.3"


@pytest.mark.parametrize("version", ["0.1", "0.2"])
async def test_kyutais_client_converses_through_the_bridge(version: str) -> None:
    python = PYTHON_0_1 if version == "0.1" else Path(sys.executable)
    assert python.exists(), "there is no environment with sphn 0.1; `make interop` makes it"
    # This client does not wait for the handshake, so its first words are not heard.
    said = np.concatenate([np.zeros(24_000, np.float32), speech(24_000)])
    async with console() as address:
        script = Path(__file__).with_name("sphn_client.py")
        heard, told = await converse(
            [python, script, f"ws://{address}/api/chat?{QUERY}", str(CLIENT_S)], said
        )
        assert '"carrier": "browser"' in fetch(f"http://{address}/api/calls")[1]
    assert_heard(heard, said[24_000:], told, 24_000)


async def test_nvidias_web_client_converses_through_the_bridge() -> None:
    node = NODE_ENVIRONMENT / "bin" / "node"
    assert node.exists(), "there is no environment with opus-recorder; `make interop` makes it"
    said = np.concatenate([np.zeros(48_000, np.float32), speech(48_000)])
    async with console() as address:
        script = Path(__file__).with_name("opus_recorder_client.cjs")
        folder = NODE_ENVIRONMENT / "node_modules" / "opus-recorder"
        chosen = "text_temperature=0.7&text_topk=25&audio_temperature=0.8&audio_topk=250&pad_mult=0"
        url = f"ws://{address}/api/chat?{QUERY}&{chosen}"
        heard, told = await converse([node, script, folder, url, str(CLIENT_S)], said)
    assert_heard(heard, said[48_000:], told, 48_000)
