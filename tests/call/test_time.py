"""The conversation stays in time: whole calls through the real code and real sockets, in virtual time.

Every figure is what a caller would notice: the delay from mouth to ear, found in the sound alone by
`listening`, and the holes that Exotel's player had. The engine echoes, at 30 ms a step. With 100 ms chunks
the floor is about 206 ms, with 20 ms chunks about 126. `rust/core/tests/time.rs` plays the longer and the
more random calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from tests.call.relay import Relay
from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge.calls.call_state import Outcome
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Event, Kind
from pxbridge.calls.numbers import Numbers
from pxbridge.calls.summary import outcome, summary
from pxbridge.simulation.mouth_to_ear import Hearing, listen
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from pxbridge.calls.call import CallRecord

LIMIT_S = {100: 0.235, 20: 0.155}
FLOOR_S = {100: 0.206, 20: 0.126}
CHUNKS_MS = sorted(LIMIT_S)
SETTLING_S = 1.0
UNHEARD_S = 0.002
"""A shorter hole is the arithmetic of arrival times, and no ear would notice."""
LONGEST_DELAY_S = 3.0
"""The same words are said again after 5 s."""


class Talk(NamedTuple):
    """A finished call."""

    phone: Phone
    record: CallRecord
    hearing: Hearing
    engine_ready_s: float
    history: list[tuple[float, float]]
    """When the counters were read, and how much of the agent's sound had been made up by then, in seconds."""

    def delays_s(self, from_s: float = 0.0, to_s: float = 1e9) -> list[float]:
        """Of the words spoken in a span."""
        return [found.delay_s for found in self.hearing.delays if from_s <= found.at_s < to_s]

    def delay_s(self, quantile: float, from_s: float = 0.0, to_s: float = 1e9) -> float:
        return float(np.quantile(self.delays_s(from_s, to_s), quantile))

    def holes_s(self, from_s: float | None = None, to_s: float = 1e9) -> list[float]:
        """The lengths of the player's holes; the agent's first second is a beginning."""
        since_s = self.engine_ready_s + SETTLING_S if from_s is None else from_s
        return [hole.duration_s for hole in self.phone.player.holes if since_s <= hole.at_s < to_s]

    def made_up_s(self, from_s: float = 0.0, to_s: float = 1e9) -> float:
        """What was concealed or filled with noise in a span: missing sound that is no silence."""
        spans = [made_up_s for at_s, made_up_s in self.history if from_s <= at_s < to_s]
        return spans[-1] - spans[0]

    @property
    def longest_gap_s(self) -> float:
        """The longest time for which the engine's audio was missing, whatever was heard instead."""
        return self.record.stats["downlink"]["longest_hole_us"] / 1e6


def talk(
    chunk_ms: int,
    length_s: float,
    network: str = "",
    *,
    below: str = "",
    engine: str = "",
    prompt_s: float = 0.0,
    step_ms: float = 30,
) -> Talk:
    """A call of someone who talks all the time.

    Args:
        chunk_ms: The phone's chunks.
        length_s: How long it lasts.
        network: Between phone and bridge, as the simulated phone plays it.
        below: The same, below the sockets.
        engine: Between bridge and engine.
        prompt_s: What the engine needs for its prompts.
        step_ms: What it needs for 80 ms.
    """

    history = []

    def watch(record: CallRecord, event: Event) -> None:
        if event.kind is Kind.COUNTERS and (down := record.stats.get("downlink")):
            made_up_s = (down["concealed"] + down["noise"]) / record.rate_hz
            history.append((event.at_s - (record.started_s or 0.0), made_up_s))

    async def hold() -> tuple[Phone, CallRecord]:
        words = np.tile(speech(), int(length_s / 5) + 1)
        script = Script(words, speak_at_s=prompt_s + 0.5, hang_up_at_s=length_s)
        phone = Phone(script, Line(chunk_ms=chunk_ms), parse_network(network), seed=1)
        engine_network = parse_network(engine) if engine else None
        async with bridge(
            prompt_s=prompt_s,
            step_ms=step_ms,
            handshake_timeout_s=10.0,
            engine_network=engine_network,
            limits=CallLimits(),
            subscribers=[watch],
        ) as there:
            async with Relay(there.listener.port, parse_network(below)) as relay:
                port = relay.port if below else there.listener.port
                await place_call(f"ws://127.0.0.1:{port}/exotel", phone)
            return phone, await there.record()

    phone, record = run(hold(), limit_s=length_s + 60)
    hearing = listen(phone.said, phone.player.heard, 8000, longest_delay_s=LONGEST_DELAY_S)
    return Talk(phone, record, hearing, prompt_s, history)


@pytest.mark.parametrize("prompt_s", [0.0, 5.0])
@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_an_undisturbed_call_is_close_to_the_floor_however_long_the_prompts_take(
    chunk_ms: int, prompt_s: float
) -> None:
    call = talk(chunk_ms, prompt_s + 12, prompt_s=prompt_s)
    assert call.delay_s(0.5) <= LIMIT_S[chunk_ms]
    assert call.delay_s(0.99) <= call.delay_s(0.5) + 0.025
    assert call.holes_s() == []
    assert call.hearing.dropouts == ()
    assert not call.phone.faults


def ends_s(stalls: str) -> list[float]:
    """When each stall of a network ends, by the network's own clock."""
    return [stall.at_s + stall.duration_s for stall in parse_network(stalls).stalls]


def assert_recovers(call: Talk, stalls: str) -> None:
    """Three seconds after each stall the delay is what it was, and stays so until the next one."""
    before_s = call.delay_s(0.5, 2.0, 5.0)
    for end_s in ends_s(stalls):
        assert call.delays_s(end_s + 3.0, end_s + 5.5), "nothing was heard"
        assert call.delay_s(0.9, end_s + 3.0, end_s + 5.5) <= before_s + 0.040


STALLS = {
    "one": "stall 1.5s at 6s",
    "five": "; ".join(f"stall 1.5s at {at}s" for at in (6, 14, 22, 30, 38)),
    "of 10 s": "stall 10s at 6s",
}


def on(way: str, stalls: str) -> str:
    return "; ".join(f"{stall} {way}" for stall in stalls.split("; "))


@pytest.mark.parametrize("stalls", STALLS.values(), ids=STALLS.keys())
def test_a_stall_of_the_phone_leaves_no_delay_and_the_agent_goes_on(stalls: str) -> None:
    network = on("up", stalls)
    call = talk(100, ends_s(network)[-1] + 6.5, network)
    assert_recovers(call, network)
    assert max(call.holes_s(), default=0.0) <= 0.250
    assert call.longest_gap_s <= 0.250


@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_what_a_caller_says_after_a_hold_is_heard_whole_and_in_time(chunk_ms: int) -> None:
    call = talk(chunk_ms, 24, "lose 5s at 6s; jitter 4ms up")
    intake = call.record.stats["uplink"]
    assert intake["removed_in_speech"] + intake["cut"] == 0
    before_s = call.delay_s(0.5, 2.0, 5.0)
    words = len(talk(chunk_ms, 24).delays_s(12.0, 22.0))
    assert len(call.delays_s(12.0, 22.0)) == words
    assert call.delay_s(0.9, 12.0) <= before_s + 0.040


@pytest.mark.parametrize("stalls", STALLS.values(), ids=STALLS.keys())
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_stall_of_the_engines_network_leaves_no_delay(stalls: str, way: str) -> None:
    network = on(way, stalls)
    call = talk(100, ends_s(network)[-1] + 6.5, engine=network)
    assert_recovers(call, network)
    assert call.holes_s() == []  # the caller hears the line's noise meanwhile, and nothing longer than that:
    lasted_s = sum(stall.duration_s for stall in parse_network(stalls).stalls)
    assert call.made_up_s() <= lasted_s + 0.1 * len(ends_s(stalls))


@pytest.mark.parametrize("stalls", STALLS.values(), ids=STALLS.keys())
def test_a_stall_on_the_way_to_exotel_leaves_no_delay(stalls: str) -> None:
    network = on("down", stalls)
    call = talk(100, ends_s(network)[-1] + 6.5, below=network)
    assert_recovers(call, network)


def test_an_engine_that_does_not_answer_is_not_fed_for_ever() -> None:
    network = "stall 10s at 6s up"
    call = talk(20, 20, engine=network)
    assert call.record.stats["uplink"]["holds"] == 1
    assert call.record.stats["uplink"]["withheld"] > 8 * 8000


@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_an_engine_slower_than_real_time_is_given_less_and_the_record_says_so(chunk_ms: int) -> None:
    step_ms = 100
    call = talk(chunk_ms, 60, step_ms=step_ms)
    intake, playout = call.record.stats["uplink"], call.record.stats["downlink"]
    assert outcome(call.record) is Outcome.COMPLETED and intake["slow"] > 0
    assert (intake["emitted"] - playout["received"]) / 8000 <= 1.5, "fed with all, it owes 12 s by now"
    left_out_s = (intake["removed_in_pauses"] + intake["removed_in_speech"] + intake["cut"]) / 8000
    assert left_out_s == pytest.approx(60 * (1 - 80 / step_ms), abs=2.5)
    # Words that were made faster are not found in what was heard: the delay is told by its parts.
    delay_s = summary(call.record, Numbers(), call.record.ended_s)["mouth_to_ear_p95_s"]
    assert delay_s <= LIMIT_S[chunk_ms] + 1.5


JITTER = "jitter 80ms {way} from 4s to 74s"
KNOWN_S = 14
"""It takes ten seconds to know a line."""


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("side", ["phone", "engine"])
def test_jitter_makes_no_holes_and_no_more_delay_than_itself_and_goes_with_it(side: str, way: str) -> None:
    jitter = JITTER.format(way=way)
    call = talk(100, 90, below=jitter) if side == "phone" else talk(100, 90, engine=jitter)
    assert call.delay_s(0.95, 4, 74) <= FLOOR_S[100] + 0.080 + 0.040
    assert len(call.holes_s(5, 24)) <= 1
    assert len(call.holes_s(KNOWN_S, 74)) <= 1  # a minute of it
    assert call.made_up_s(KNOWN_S, 74) <= 0.250  # a packet of concealment now and then
    assert call.longest_gap_s <= 0.080
    assert call.delay_s(0.5, 84) <= LIMIT_S[100]


@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_jitter_on_both_of_the_engines_ways_at_once_goes_with_it(chunk_ms: int) -> None:
    call = talk(chunk_ms, 90, engine=JITTER.format(way=""))
    assert call.delay_s(0.95, 4, 74) <= FLOOR_S[chunk_ms] + 2 * 0.080 + 0.040
    assert len(call.holes_s(KNOWN_S, 74)) <= 1
    assert call.made_up_s(KNOWN_S, 74) <= 0.600
    assert call.delay_s(0.5, 84) <= LIMIT_S[chunk_ms]


@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_a_line_that_begins_to_jitter_is_waited_for_and_not_taken_for_stalled(chunk_ms: int) -> None:
    call = talk(chunk_ms, 36, below="jitter 150ms up from 10s to 35s")
    intake = call.record.stats["uplink"]
    assert intake["stalls"] <= 2
    assert intake["inserted"] + intake["removed_in_speech"] <= 0.8 * 8000


@pytest.mark.parametrize("prompt_s", [0.0, 2.0])
@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_a_call_that_begins_in_jitter_is_whole_from_its_first_second_on(
    chunk_ms: int, prompt_s: float
) -> None:
    call = talk(chunk_ms, prompt_s + 21, below="jitter 80ms down", prompt_s=prompt_s)
    assert len([hole_s for hole_s in call.holes_s() if hole_s > UNHEARD_S]) <= 1
    # What was kept too much at first has gone by then: out of pauses, and after three seconds out of speech.
    assert call.delay_s(0.95, prompt_s + 5.0) <= FLOOR_S[chunk_ms] + 0.080 + 0.040


@pytest.mark.parametrize("way", ["up", "down", ""], ids=["up", "down", "both"])
@pytest.mark.parametrize("chunk_ms", CHUNKS_MS)
def test_jitter_in_which_a_call_begins_leaves_no_delay_ten_seconds_after_its_end(
    chunk_ms: int, way: str
) -> None:
    call = talk(chunk_ms, 45, below=f"jitter 80ms {way} from 0s to 20s")
    assert call.delay_s(0.5, 30) <= LIMIT_S[chunk_ms]
    assert len([hole_s for hole_s in call.holes_s(20) if hole_s > UNHEARD_S]) <= 1


def test_a_phone_whose_clock_drifts_is_followed() -> None:
    for drift in ("+100ppm", "-100ppm"):
        call = talk(100, 45, f"drift {drift}")
        assert call.holes_s() == []
        assert call.delay_s(0.9, 40) <= call.delay_s(0.5, 2, 10) + 0.025
