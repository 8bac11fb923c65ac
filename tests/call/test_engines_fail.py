"""What callers hear when engines fail: before the call, in it, one or all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.rig import Bridge, bridge, speech
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound, sound
from pxbridge.calls.call import LAST_WORDS_S, Party, Phase
from pxbridge.calls.call_state import Outcome
from pxbridge.calls.continuation import MAX_SAID_CHARS, continue_prompts
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Event, Kind
from pxbridge.calls.persona import Persona
from pxbridge.engines.pool import PoolLimits
from pxbridge.simulation import faults
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import Line, Phone, Script
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PROMPT_S = 5.0
"""As long as a real engine needs."""
WARM_HEARD_S = 1.0
"""A caller hears the agent again within this when a session is warm."""


def times_heard(phone: Phone, name: Sound) -> int:
    """How often a sound of the bridge's own was heard whole."""
    return len(places(phone.player.heard, sound(name, phone.line.rate_hz)))


def places(heard: NDArray[np.int16], wanted: NDArray[np.float32]) -> list[int]:
    """Where a sound begins in what was heard: where it fits almost to the sample."""
    x = heard.astype(np.float64) / 32768
    y = wanted.astype(np.float64)
    if len(x) < len(y):
        return []
    size = 1 << (len(x) + len(y)).bit_length()
    product = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size)), size)[: len(x) - len(y) + 1]
    energy = np.concatenate(([0.0], np.cumsum(x * x)))
    norm = np.sqrt((energy[len(y) :] - energy[: len(product)]) * (y @ y)) + 1e-9
    found: list[int] = []
    for at in np.flatnonzero(product / norm > 0.95):
        if not found or at - found[-1] > len(y) // 2:
            found.append(int(at))
    return found


def gaps_s(b: Bridge) -> list[float]:
    """How long callers missed the agent, each time its engine was lost."""
    gaps, lost = [], False
    for event in b.events:
        lost = lost or event.kind is Kind.ENGINE_LOST
        if event.kind is Kind.HEARD and lost:
            gaps.append(event.detail["after_s"])
    return gaps


def phases(events: Sequence[Event]) -> list[str]:
    return [event.detail["phase"] for event in events if event.kind is Kind.PHASE]


@pytest.mark.parametrize(
    "fault",
    [faults.Dies(after_steps=100), faults.Closes(after_steps=100)],
    ids=lambda fault: type(fault).__name__,
)
def test_when_an_engine_dies_a_warm_one_is_heard_within_a_second(fault: faults.Fault) -> None:
    async def main() -> tuple[Phone, list[float]]:
        async with bridge((fault,), (), prompt_s=PROMPT_S, mode=Mode.PARROT, warm=1) as b:
            phone = await b.call(Script(hang_up_at_s=25.0))
            record = await b.record()
            assert record.failovers == 1
            assert record.ending is not None and record.ending.by is Party.PHONE
            assert [e.detail["warm"] for e in b.events if e.kind is Kind.LIVE] == [True, True]
            assert phases(b.events) == ["prompting", "live", "failover", "live", "leaving"]
            return phone, gaps_s(b)

    phone, gaps = run(main())
    assert len(gaps) == 1
    assert gaps[0] <= WARM_HEARD_S
    # The engine speaks for 8 s and is killed; then the next one greets.
    after = phone.player.heard[round(8.3 * 8000) :]
    voice = np.abs(after.astype(np.int32)) > 1000
    assert float(np.argmax(voice)) / 8000 <= WARM_HEARD_S
    assert np.count_nonzero(voice) > 2000, "the agent speaks again"
    assert not phone.faults


def test_without_a_warm_session_the_next_engine_is_told_what_was_said() -> None:
    async def main() -> None:
        async with bridge((faults.Dies(after_steps=100),), (), prompt_s=1.0, mode=Mode.PARROT) as b:
            phone = await b.call(Script(hang_up_at_s=20.0))
            assert not phone.faults
            first, second = b.prompted
            assert first.text_prompt == "You are kind."
            assert second.text_prompt.startswith("You are kind. The line was interrupted")
            assert "rehearsal engine" in second.text_prompt
            assert second.voice_prompt == first.voice_prompt
            assert len(times := gaps_s(b)) == 1
            assert times[0] < 1.0 + 0.5
            assert phases(b.events) == ["prompting", "live", "failover", "live", "leaving"]

    run(main())


def test_what_the_next_engine_is_told_is_bounded_and_whole_words() -> None:
    persona = Persona("NATF0.pt", "You are kind.")
    prompts = continue_prompts(persona, "word " * 1000)
    assert len(prompts.text_prompt) < len(persona.text_prompt) + MAX_SAID_CHARS + 200
    assert "... word word" in prompts.text_prompt
    assert continue_prompts(persona, " ").text_prompt == persona.text_prompt


def test_a_long_gap_is_explained() -> None:
    async def main() -> Phone:
        async with bridge(
            (faults.Dies(after_steps=50),),
            (),
            prompt_s=5.0,
            mode=Mode.PARROT,
            limits=CallLimits(failover_timeout_s=20.0),
        ) as b:
            return await b.call(Script(hang_up_at_s=25.0))

    phone = run(main())
    assert times_heard(phone, Sound.GAP) == 1
    assert times_heard(phone, Sound.ONE_MOMENT) == 2, "when it began, and in the gap"
    assert times_heard(phone, Sound.SORRY) == 0


def test_when_no_engine_comes_back_the_caller_hears_so_and_the_call_ends() -> None:
    async def main() -> tuple[Phone, Party]:
        async with bridge((faults.Dies(after_steps=50),), mode=Mode.PARROT) as b:
            call = asyncio.create_task(b.call(Script(hang_up_at_s=60.0)))
            await asyncio.sleep(3.0)
            b.engines[0].faults = (faults.RefusesUpgrade(503),)
            phone = await call
            ending = (await b.record()).ending
            assert ending is not None
            return phone, ending.by

    phone, by = run(main())
    assert by is Party.ENGINE
    assert phone.close_code == 1011
    assert times_heard(phone, Sound.SORRY) == 1, "to its end"


@pytest.mark.parametrize(
    "fault",
    [faults.Hangs(after_steps=50), faults.LosesPages(every_steps=1)],
    ids=lambda fault: type(fault).__name__,
)
def test_an_engine_that_hears_and_says_nothing_is_given_up(fault: faults.Fault) -> None:
    async def main() -> None:
        async with bridge((fault,), (), mode=Mode.ECHO) as b:
            phone = await b.call(Script(speech(), speak_at_s=10.0, hang_up_at_s=16.0))
            assert next(e.detail["reason"] for e in b.events if e.kind is Kind.ENGINE_LOST).endswith("2.5 s")
            hearing = listen(phone.said, phone.player.heard, 8000)
            assert hearing.correlation > 0.85

    run(main())


def test_an_engine_that_stalls_for_a_moment_is_kept() -> None:
    async def main() -> None:
        async with bridge((faults.Stalls(after_steps=30, for_s=1.5),), ()) as b:
            await b.call(Script(speech(), speak_at_s=6.0, hang_up_at_s=12.0))
            assert (await b.record()).failovers == 0

    run(main())


@pytest.mark.parametrize(
    "fault",
    [
        faults.RefusesUpgrade(503),
        faults.StaysSilent(),
        faults.Dies(after_steps=10),
        faults.Closes(after_steps=10),
        faults.Floods(after_steps=20),
        faults.SendsGarbage(),
        faults.Hangs(after_steps=10),
        faults.BreaksOffPrompting(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_one_engine_does_other_calls_do_not_notice(fault: faults.Fault) -> None:
    async def main() -> tuple[Phone, Phone]:
        async with bridge((fault,), (), (), handshake_timeout_s=2.0) as b:
            spoiled, fine = await asyncio.gather(
                b.call(Script(speech(), speak_at_s=1.0, hang_up_at_s=12.0)),
                b.call(Script(speech(), speak_at_s=1.0, hang_up_at_s=7.0)),
            )
            await asyncio.sleep(3.0)
            assert b.registry.live == 0
            assert sum(engine.clients for engine in b.engines) == 0
            return spoiled, fine

    spoiled, fine = run(main())
    assert spoiled.duration_s == pytest.approx(12.0)
    hearing = listen(fine.said, fine.player.heard, 8000)
    assert hearing.correlation > 0.85
    assert hearing.dropouts == ()
    delay_s = hearing.delay_s(0.95)
    assert delay_s is not None
    assert delay_s < 0.5
    assert [hole for hole in fine.player.holes if hole.at_s > 1.5] == []


@pytest.mark.parametrize(
    "fault",
    [faults.BreaksOffPrompting(), faults.ClosesPrompting(), faults.ReportsErrorPrompting("no such voice")],
    ids=lambda fault: type(fault).__name__,
)
def test_a_persona_that_every_engine_refuses_is_said_to_be_a_fault_and_harms_no_engine(
    fault: faults.Fault,
) -> None:
    async def main() -> None:
        async with bridge((fault,), (fault,)) as b:
            phone = await b.call(Script(hang_up_at_s=60.0))
            record = await b.record()
            assert record.ending is not None and record.ending.by is Party.ENGINE
            assert phone.close_code == 1011
            assert times_heard(phone, Sound.SORRY) == 1
            assert phone.duration_s < 2.0 + LAST_WORDS_S
            await asyncio.sleep(0.5)
            assert b.pool.free == 2, "strangers may name voices that do not exist"

    run(main())


BUSY = [
    faults.RefusesUpgrade(503),
    faults.ClosesPrompting(1013, "try again later"),
    faults.ClosesPrompting(1012, "service restart"),
    faults.ReportsErrorPrompting("all slots are busy"),
]


@pytest.mark.parametrize("fault", BUSY)
def test_an_engine_that_says_it_is_busy_is_passed_over_without_blame(fault: faults.Fault) -> None:
    async def main() -> None:
        async with bridge((fault,), ()) as b:
            for _ in range(3):
                await b.call(Script(hang_up_at_s=3.0))
                record = await b.record()
                assert record.live_s is not None
                assert f":{b.engines[1].port}/" in str(record.engine)
                await asyncio.sleep(1.5)  # it is asked again after a second
            busy, works = b.pool.failures().values()
            assert busy["setup"] == 0 and busy["busy"] >= 1
            assert sum(works.values()) == 0
            assert b.pool.free == 2, "neither is paused"

    run(main())


@pytest.mark.parametrize("fault", BUSY)
def test_a_call_that_meets_a_busy_engine_keeps_its_place(fault: faults.Fault) -> None:
    async def main() -> None:
        limits = CallLimits(max_wait_s=60.0)
        async with bridge((fault,), limits=limits, pool_limits=PoolLimits(max_waiting=1)) as b:
            calls = []
            for n in range(20):  # some arrive while the first one tries the engine
                talk = Script(hang_up_at_s=20.0)
                calls.append(asyncio.create_task(b.call(talk, Line(call_sid=str(n)))))
                await asyncio.sleep(0.15)
            b.engines[0].faults = ()
            await asyncio.gather(*calls)
            await b.record()
            outcomes = {r.call_id: r.ending.outcome for r in b.records if r.ending is not None}
            lives = {r.call_id: r.live_s for r in b.records if r.live_s is not None}
            assert outcomes["0"] is not Outcome.NO_ENGINE, "it waits already, however many have come since"
            assert min(lives, key=lambda call_id: lives[call_id]) == "0", "who came first"
            assert Outcome.NO_ENGINE in outcomes.values()

    run(main())


def test_a_busy_engine_is_waited_for_where_another_rejects_the_persona() -> None:
    async def main() -> None:
        busy, rejects = faults.ClosesPrompting(1013, "full"), faults.RefusesUpgrade(400)
        async with bridge((busy,), (rejects,), limits=CallLimits(max_wait_s=30.0)) as b:
            call = asyncio.create_task(b.call(Script(hang_up_at_s=15.0)))
            await asyncio.sleep(4.0)
            b.engines[0].faults = ()
            await call
            assert (await b.record()).live_s is not None

    run(main())


def test_an_engine_in_a_call_is_waited_for_where_another_rejects_the_persona() -> None:
    async def main() -> None:
        async with bridge((), (faults.RefusesUpgrade(400),), limits=CallLimits(max_wait_s=30.0)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=12.0), Line(call_sid="first")))
            await asyncio.sleep(2.0)
            b.events.clear()
            waits = asyncio.create_task(b.call(Script(hang_up_at_s=20.0), Line(call_sid="waits")))
            await asyncio.sleep(2.0)
            (call,) = (each for each in b.registry if each.record.call_id == "waits")
            assert call.record.phase is Phase.WAITING
            await asyncio.sleep(6.0)
            tried = [each for each in b.events if each.kind is Kind.ENGINE_TRIED]
            assert 1 <= len(tried) <= 2, "a rejection is not asked for again and again"
            b.engines[1].faults = ()
            later = await b.call(Script(hang_up_at_s=1.5), Line(call_sid="later"))
            assert later.media_received > 5, "one that waits for another engine is not in its way"
            await asyncio.gather(first, waits)
            await b.record()
            assert all(record.live_s is not None for record in b.records)

    run(main())


def test_a_waiting_caller_outlasts_an_engine_that_breaks_off_while_it_reads_the_prompts() -> None:
    async def main() -> None:
        async with bridge(limits=CallLimits(max_wait_s=30.0)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=4.0), Line(call_sid="first")))
            await asyncio.sleep(2.0)
            waits = asyncio.create_task(b.call(Script(hang_up_at_s=20.0), Line(call_sid="waits")))
            await asyncio.sleep(1.0)
            b.engines[0].faults = (faults.BreaksOffPrompting(),)
            await asyncio.sleep(3.0)
            b.engines[0].faults = ()
            await asyncio.gather(first, waits)
            await b.record()
            assert [record.live_s is not None for record in b.records] == [True, True]

    run(main())


def test_all_engines_gone_and_back() -> None:
    async def main() -> None:
        async with bridge((), (), mode=Mode.PARROT, limits=CallLimits(failover_timeout_s=30.0)) as b:
            calls = [asyncio.create_task(b.call(Script(hang_up_at_s=40.0))) for _ in range(2)]
            await asyncio.sleep(5.0)
            for engine in b.engines:
                await engine.stop()
            await asyncio.sleep(12.0)
            assert b.pool.free == 0
            for engine in b.engines:
                await engine.start()
            phones = await asyncio.gather(*calls)
            await b.record()
            assert [record.failovers for record in b.records] == [1, 1]
            assert all(record.phase is Phase.ENDED for record in b.records)
            assert all(gap < 12.0 + 6.0 for gap in gaps_s(b))
            for phone in phones:
                tail = phone.player.heard[-20 * 8000 :].astype(np.float64)
                assert np.abs(tail).max() > 3000, "the agent greets again"
                assert phone.duration_s == pytest.approx(40.0)
            await asyncio.sleep(10.0)
            assert b.pool.free == 2

    run(main())
