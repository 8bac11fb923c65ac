"""What NVIDIA's server does to its clients, row by row of a list made by reading and running it: not here.

Where a row is about the model and not about serving, its test is in `tests/engine`: WAV voices in stereo
(row 14), a context that forgets no position too many (15) and a persona that stays in attention (16),
voices that are read as data (the second half of 5) and archives that are never unpacked (the first half of
12).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import PERSONA, FakeText, FakeTokenizer, FakeVoices, Rig, http, serving, voice
from tests.virtual_time import run

from pxbridge import chat_wire
from pxbridge.personaplex.engine import Engine, EngineThread
from pxbridge.personaplex.personas import FilePersonas
from pxbridge.personaplex.places import Places
from pxbridge.personaplex.scheduler import MOST_FRAMES
from pxbridge.personaplex.server import EngineServer, Rules, listen
from pxbridge.personaplex.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.personaplex.stepper import Step


def test_1_who_connects_during_anothers_prompts_changes_nobodys_persona() -> None:
    async def main() -> None:
        async with serving(2, costs=Costs(position_s=0.01)) as rig:
            asked = [("NATF0", "one"), ("NATM1", "one two"), ("anna", "one two three"), ("NATF0", "a b c d")]
            clients = [
                await rig.call({"voice_prompt": name, "text_prompt": text, "queue": 1})
                for name, text in asked
            ]
            await clients[0].live()
            await clients[0].hang_up()
            await clients[1].live()
            await clients[1].hang_up()
            await clients[2].live()
            await clients[3].live()
            got = [
                (prompt.voice.key.partition(".")[0], len(prompt.text)) for _, prompt, _ in rig.stepper.opened
            ]
            assert got == [(name, len(text.split())) for name, text in asked]

    run(main())


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("text_prompt=x", "voice_prompt"),
        ("voice_prompt=NATF0.pt", "text_prompt"),
        ("voice_prompt=NOBODY.pt&text_prompt=x", "voice_prompt"),
        ("voice_prompt=&text_prompt=x", "voice_prompt"),
    ],
)
def test_2_a_missing_or_unknown_prompt_is_refused_with_a_reason_and_no_upgrade(
    query: str, parameter: str
) -> None:
    async def main() -> None:
        async with serving() as rig:
            refused = await rig.refused(query)
            assert refused.status == 400
            assert refused.headers["content-type"] == "application/json"
            assert refused.told["error"] == "bad_request"
            assert refused.told["parameter"] == parameter
            assert refused.told["reason"]

    run(main())


@pytest.mark.parametrize("text", ["", "%20%20"])
def test_3_an_empty_text_prompt_is_an_agent_that_was_told_nothing(text: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call(f"voice_prompt=NATF0.pt&text_prompt={text}")
            await client.live()
            await client.converse(5)
            assert rig.stepper.opened[-1][1].text == ()

    run(main())


def test_4_a_seed_is_obeyed_and_is_its_own_sessions_alone() -> None:
    async def main() -> None:
        async with serving() as rig:
            for seed in (0, 42, (1 << 63) - 1, 42):
                client = await rig.call({**PERSONA, "seed": seed})
                await client.live()
            await asyncio.sleep(1.0)
            assert [sampling.seed for _, _, sampling in rig.stepper.opened] == [0, 42, (1 << 63) - 1, 42]

    run(main())


@pytest.mark.parametrize("name", ["../x.pt", "/x.pt", "../NATF0.pt", "./NATF0.pt", "sub/../NATF0.pt"])
def test_5_a_path_is_no_voice(name: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            refused = await rig.refused({"voice_prompt": name, "text_prompt": "x"})
            assert (refused.status, refused.told["parameter"]) == (400, "voice_prompt")

    run(main())


def test_6_a_second_caller_is_served_or_told_at_once_and_is_read_while_it_waits() -> None:
    async def main() -> None:
        async with serving(2, line=1) as rig:
            first, second = await rig.call(), await rig.call()
            await first.live()
            await second.live()
            assert (await rig.refused()).status == 503
            third = await rig.call({**PERSONA, "queue": 1})
            await third.until(lambda: bool(third.messages))
            await third.socket.send(chat_wire.ping())
            await third.until(lambda: chat_wire.ping() in third.messages)
            third.socket.transport.abort()
            async with asyncio.timeout(5.0):
                while rig.places.waiting:  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(0.01)

    run(main())


def test_7_what_is_said_during_the_prompts_is_heard_and_so_is_what_follows() -> None:
    async def main() -> None:
        async with serving(costs=Costs(position_s=0.005)) as rig:
            client = await rig.call()
            await client.say(voice(3))
            assert client.handshakes == 0
            await client.live()
            await client.until(lambda: client.heard_frames == 3)
            await client.converse(10)
            assert client.heard_frames == 13

    run(main())


def test_8_a_prompt_costs_its_work_and_no_waiting() -> None:
    async def main() -> float:
        async with serving(costs=Costs(chunk_s=0.0, position_s=0.0005)) as rig:
            began_s = asyncio.get_running_loop().time()
            client = await rig.call({"voice_prompt": "NATF0", "text_prompt": "word " * 148})
            await client.live()
            assert rig.stepper.opened[-1][1].positions == 210
            return asyncio.get_running_loop().time() - began_s

    assert run(main()) < 210 * 0.0005 + 0.02, "10 ms a position would be 2.1 s"


class BlockingStepper:
    """A model whose work lasts until it is let go, in real time."""

    slots, context, longest_prompt = 4, 3000, 2900

    def __init__(self) -> None:
        from tests.personaplex.fake_model import FakeStepper

        self._fake = FakeStepper(4)
        self.go = threading.Event()
        self.stepping = threading.Event()
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.threads.add(threading.current_thread().name)
        return getattr(self._fake, name)

    def step(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Step]:
        self.threads.add(threading.current_thread().name)
        self.stepping.set()
        assert self.go.wait(30.0)
        return self._fake.step(frames)


async def test_9_the_model_works_in_a_thread_of_its_own_while_everything_else_goes_on() -> None:
    stepper, telemetry = BlockingStepper(), Telemetry()
    personas = FilePersonas(FakeVoices(), FakeTokenizer(), 2900)
    engine = Engine(stepper, telemetry, prepare=personas.read_all)
    server = EngineServer(engine, Places(4, 0), personas, FakeText, telemetry, Rules())
    async with listen(server, "127.0.0.1", 0):
        with EngineThread(engine) as thread:
            await asyncio.wait_for(engine.ready.wait(), 10)
            rig = Rig(server, engine, stepper._fake, Places(4, 0), FakeVoices(), telemetry)
            client = await rig.call()
            await client.live()
            await client.say(voice(1))
            await asyncio.to_thread(stepper.stepping.wait, 10.0)
            other = await rig.call()
            for _ in range(20):
                assert (await http(server.port, "/livez"))[0] == 200
                await client.say(voice(1), paced=False)
            assert client.heard_frames == 0
            stepper.go.set()
            await client.until(lambda: client.heard_frames >= MOST_FRAMES)
            await other.live()
            await client.hang_up()
            await other.hang_up()
        assert await thread.join(10.0)
    assert stepper.threads == {"engine"}


def test_10_a_stall_leaves_no_delay() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await client.converse(10)
            rig.stepper.costs.tick_s = 1.5
            await client.say(voice(1))
            rig.stepper.costs.tick_s = 0.03
            await client.say(voice(60))
            before = client.heard_frames
            await client.say(voice(1))
            assert client.heard_frames == before + 1, "answered before the next frame is there"

    run(main())


def test_11_it_listens_where_it_is_told_to() -> None:
    async def main() -> None:
        async with serving() as rig:
            (socket,) = rig.server.server.sockets if rig.server.server else ()
            assert socket.getsockname()[0] == "127.0.0.1"

    run(main())


def test_12_static_files_follow_no_link_out_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "dist" / "link").symlink_to("../outside")
    (tmp_path / "dist" / "folder").symlink_to("..")

    async def main() -> None:
        async with serving(static=tmp_path / "dist") as rig:
            for path in ("/link", "/folder/outside", "/../outside", "/%2e%2e/outside"):
                status, _, body = await rig.get(path)
                assert status == 404
                assert b"secret" not in body

    run(main())


def test_13_importing_it_starts_nothing() -> None:
    script = (
        "import sys, threading, pxbridge.personaplex.server, pxbridge.personaplex.serve\n"
        "assert threading.active_count() == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_sampling_parameters_are_obeyed() -> None:
    async def main() -> None:
        async with serving() as rig:
            query = "&text_temperature=0.2&text_topk=10&audio_temperature=1.2&audio_topk=500"
            client = await rig.call("voice_prompt=NATF0&text_prompt=x" + query)
            await client.live()
            sampling = rig.stepper.opened[-1][2]
            assert (sampling.text_temperature, sampling.text_top_k) == (0.2, 10)
            assert (sampling.audio_temperature, sampling.audio_top_k) == (1.2, 500)

    run(main())


def test_it_tells_of_its_health_and_its_work() -> None:
    async def main() -> None:
        async with serving() as rig:
            assert (await rig.get("/livez"))[0] == 200
            assert json.loads((await rig.get("/readyz"))[2])["free"] == 4
            assert b"pxbridge_engine_tick_seconds" in (await rig.get("/metrics"))[2]

    run(main())
