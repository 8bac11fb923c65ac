"""A name server that does not answer, under a bridge as an operator runs it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.fault.processes import bridge_process, engine_process, until

if TYPE_CHECKING:
    from pathlib import Path

DEAD = 8
STOP_S = 10.0
"""Such a look-up takes 25 s and more."""

# Python runs this at its start.
NO_ANSWER = """
import socket, time

look_up = socket.getaddrinfo

def without_an_answer(host, *how, **more):
    if str(host).endswith(".dead.example"):
        time.sleep(600.0)
    return look_up(host, *how, **more)

socket.getaddrinfo = without_an_answer
"""


async def test_engines_whose_names_have_no_answer_harm_no_call_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_ANSWER)
    dead = [f"ws://engine{number}.dead.example:8998" for number in range(DEAD)]
    async with (
        engine_process(slots=2) as good,
        bridge_process(
            engines=",".join([good.replace("127.0.0.1", "localhost"), *dead]),
            engine_connect_timeout_s="2",
            environ={"PYTHONPATH": str(tmp_path)},
        ) as bridge,
    ):
        await bridge.call()
        await until(lambda: bridge.log.count("no connection within 2 s") >= 1, "a name had no answer in time")
        bridge.phones[0].cancel()
        bridge.signal(signal.SIGTERM)
        assert await bridge.ends(STOP_S + bridge.began_in_s) == 0
