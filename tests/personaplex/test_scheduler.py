"""Who is answered how soon, in virtual time: many callers, slow ticks, prompts that are read meanwhile."""

from __future__ import annotations

import functools
import itertools
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.personaplex.fake_model import Costs, prompt
from tests.personaplex.simulated_callers import HUSH, SPEECH, Caller, World, in_world, percentile

from pxbridge.personaplex.config import FRAME_S
from pxbridge.personaplex.scheduler import (
    LATE_FRAMES,
    MOST_FRAMES,
    PREFILL_SHARE,
    TICK_EVERY_S,
    Open,
    Prefill,
    Tick,
    level_dbfs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.personaplex.simulated_callers import Frame

    from pxbridge.personaplex.prompt import Prompt

TICK_S = 0.03
A_WHILE_S = 3.0
"""By then all prompts are read."""


def speech(_now_s: float) -> Frame:
    return SPEECH


def hush(_now_s: float) -> Frame:
    return HUSH


def full_house(
    world: World, seconds: float, *, slots: int | None = None, frame: Callable[[float], Frame] = speech
) -> list[Caller]:
    """A caller in every slot, none in step with another, on lines that jitter."""
    chance = random.Random(1)

    def lateness_s() -> float:
        return chance.expovariate(1 / 0.008) if chance.random() < 0.3 else 0.0

    return [
        world.caller(
            slot,
            frames=round(seconds / FRAME_S),
            first_s=FRAME_S + chance.uniform(0, FRAME_S),
            lateness_s=lateness_s,
            frame=frame,
        )
        for slot in range(slots or world.stepper.slots)
    ]


def waits_of(callers: list[Caller], since_s: float = A_WHILE_S, until_s: float = math.inf) -> list[float]:
    return [wait for caller in callers for wait in caller.waits_s(since_s, until_s)]


@in_world
def test_with_32_callers_and_a_tick_of_30_ms_frames_wait_no_longer_than_a_tick_and_20_ms() -> None:
    world = World(Costs(tick_s=TICK_S), slots=32)
    callers = full_house(world, 30.0)
    world.run(40.0)
    waits = waits_of(callers)
    assert len(waits) > 10_000
    assert percentile(waits, 99) <= TICK_S + 0.02
    assert max(waits) <= TICK_S + 0.02
    assert sum(caller.said for caller in callers) == sum(len(caller.answered) for caller in callers)


@in_world
def test_a_quick_model_answers_a_lone_caller_at_once() -> None:
    world = World(Costs(tick_s=0.01))
    caller = world.caller(0, frames=100)
    world.run(10.0)
    assert max(caller.waits_s()) == pytest.approx(0, abs=1e-9)


@in_world
def test_ticks_are_at_least_20_ms_apart_so_that_callers_share_them() -> None:
    world = World(Costs(tick_s=0.004), slots=32)
    full_house(world, 10.0)
    world.run(12.0)
    starts = [tick.began_s for tick in world.ticks]
    assert min(b - a for a, b in itertools.pairwise(starts)) >= TICK_EVERY_S - 1e-9
    assert len(world.ticks) == pytest.approx(10.0 / TICK_EVERY_S, rel=0.2)


@in_world
def test_a_tick_that_takes_300_ms_leaves_no_lasting_delay() -> None:
    world = World(Costs(tick_s=TICK_S), slots=32)
    callers = full_house(world, 30.0)

    def hang() -> None:
        world.stepper.costs.tick_s = 0.3
        world.at(world.now_s + 0.05, lambda: setattr(world.stepper.costs, "tick_s", TICK_S))

    world.at(10.0, hang)
    world.run(40.0)
    assert max(tick.ended_s - tick.began_s for tick in world.ticks) == pytest.approx(0.3)
    assert max(waits_of(callers, 10.0, 11.0)) > 0.25
    assert max(waits_of(callers, 11.0)) <= TICK_S + 0.02
    assert sum(each.conversation.cut for each in callers) == 0


@in_world
def test_near_capacity_a_backlog_goes_with_the_next_pause() -> None:
    def pauses_at_12_s(now_s: float) -> Frame:
        return HUSH if 12.0 <= now_s < 13.0 else SPEECH

    world = World(Costs(tick_s=0.079), slots=4)
    callers = full_house(world, 30.0, frame=pauses_at_12_s)
    world.at(10.0, lambda: setattr(world.stepper.costs, "tick_s", 0.8))
    world.at(10.2, lambda: setattr(world.stepper.costs, "tick_s", 0.079))
    world.run(25.0)
    assert min(waits_of(callers, 11.5, 12.0)) > 0.5, "at 79 ms a tick it does not go by itself"
    assert max(waits_of(callers, 14.0)) <= (LATE_FRAMES + 1) * FRAME_S
    assert all(each.conversation.dropped_quiet > 0 for each in callers)
    assert all(each.conversation.cut == 0 for each in callers)


@in_world
def test_more_than_a_second_of_backlog_is_cut_even_in_mid_word() -> None:
    world = World(Costs(tick_s=TICK_S), slots=1)
    caller = world.caller(0, frames=200)
    world.at(5.0, lambda: setattr(world.stepper.costs, "tick_s", 3.0))
    world.at(5.1, lambda: setattr(world.stepper.costs, "tick_s", TICK_S))
    world.run(20.0)
    conversation = caller.conversation
    assert conversation.cut == pytest.approx(3.0 / FRAME_S - MOST_FRAMES, abs=1)
    assert len(caller.answered) + conversation.cut == caller.said
    assert max(caller.waits_s(9.0)) <= TICK_S


@in_world
def test_reading_a_prompt_delays_nobody_by_more_than_a_third_of_the_slack() -> None:
    def worst_waits(*, newcomer: bool) -> tuple[World, list[Caller], list[Caller]]:
        world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=33)
        callers = full_house(world, 20.0, slots=32)
        came: list[Caller] = []
        if newcomer:
            world.at(
                8.0, lambda: came.append(world.caller(32, persona=lambda: prompt("new", voice_positions=288)))
            )
        world.run(20.0)
        return world, callers, came

    _, alone, _ = worst_waits(newcomer=False)
    world, callers, came = worst_waits(newcomer=True)
    third_s = PREFILL_SHARE * (FRAME_S - TICK_S)
    chunks = [each for each in world.done if isinstance(each.work, Prefill) and each.began_s > 8.0]
    assert sum(each.work.positions for each in chunks if isinstance(each.work, Prefill)) >= 300
    assert max(each.ended_s - each.began_s for each in chunks) <= third_s
    assert max(waits_of(callers)) <= max(waits_of(alone)) + third_s + 1e-9
    assert came[0].live_s is not None
    assert came[0].live_s - came[0].came_s < 3.0, "and the prompt is read all the same"


@in_world
def test_a_recording_that_nobody_has_used_before_delays_nobody_by_more_than_a_third_of_the_slack() -> None:
    part_s = 0.006
    third_s = PREFILL_SHARE * (FRAME_S - TICK_S)
    world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=33)
    callers = full_house(world, 30.0, slots=32)
    came: list[Caller] = []
    recording = [part_s] * 188  # 15 s of it
    world.at(8.0, lambda: came.append(world.caller(32, persona=prompt, voice_parts_s=recording)))
    world.run(30.0)
    assert max(waits_of(callers)) <= TICK_S + 0.02 + third_s
    reads = [each for each in world.done if isinstance(each.work, Open) and each.began_s > 8.0]
    assert max(each.ended_s - each.began_s for each in reads) <= third_s
    assert came[0].live_s is not None
    took_s = came[0].live_s - came[0].came_s
    assert len(recording) * part_s < took_s < 11.0, "and the recording is read all the same"
    read_s = sum(each.ended_s - each.began_s for each in reads)
    assert read_s <= third_s / FRAME_S * took_s * 1.05


@in_world
def test_a_known_persona_does_not_wait_for_one_that_takes_seconds() -> None:
    world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=36)
    callers = full_house(world, 30.0, slots=32)
    came: list[Caller] = []
    for slot, at_s, parts_s in ((32, 8.0, [0.006] * 188), (33, 8.1, []), (34, 9.0, []), (35, 9.0, [])):
        world.at(
            at_s,
            lambda slot=slot, parts_s=parts_s: came.append(  # type: ignore[misc]
                world.caller(slot, persona=prompt, voice_parts_s=parts_s)
            ),
        )
    world.run(30.0)
    slow, *known = [(caller.live_s or math.inf) - caller.came_s for caller in came]
    assert max(known) < 0.5
    assert slow < 11.0, "and the slow one is read all the same"
    third_s = PREFILL_SHARE * (FRAME_S - TICK_S)
    assert max(waits_of(callers)) <= TICK_S + 0.02 + third_s


@in_world
def test_two_who_bring_the_same_new_persona_have_it_read_once() -> None:
    world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=34)
    full_house(world, 20.0, slots=32)
    came: list[Caller] = []
    for slot in (32, 33):
        world.at(
            8.0 + slot / 1000,
            lambda slot=slot: came.append(  # type: ignore[misc]
                world.caller(slot, persona=lambda: prompt("new", voice_positions=288))
            ),
        )
    world.run(20.0)
    first, second = (caller.live_s or math.inf for caller in came)
    assert first <= second < first + 0.2


@in_world
def test_however_many_come_and_go_the_prompt_that_is_being_read_goes_on() -> None:
    world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=64)
    full_house(world, 20.0, slots=32)
    came: list[Caller] = []
    world.at(8.0, lambda: came.append(world.caller(32, persona=lambda: prompt("new", voice_positions=288))))

    def storm(number: int) -> None:
        caller = world.caller(33 + number % 31, persona=lambda: prompt(f"stranger {number}"))
        world.at(world.now_s + 0.3, caller.hang_up)

    for number in range(1000):
        world.at(8.01 + number / 100, functools.partial(storm, number))
    world.run(20.0)
    assert came[0].live_s is not None
    assert came[0].live_s - came[0].came_s < 4.0


@in_world
def test_while_nobody_talks_a_recording_is_read_at_full_speed() -> None:
    world = World()
    caller = world.caller(0, voice_parts_s=[0.006] * 100)
    world.run(5.0)
    assert caller.live_s == pytest.approx(0.6, abs=0.1)


@in_world
def test_a_caller_who_leaves_while_its_voice_is_read_stops_the_reading() -> None:
    world = World()
    caller = world.caller(0, voice_parts_s=[0.006] * 100)
    world.at(0.2, caller.hang_up)
    other = world.caller(1)
    world.run(2.0)
    assert caller.live_s is None and other.live_s is not None
    assert other.live_s < 0.4


@in_world
def test_prompts_take_at_most_a_third_of_the_slack_over_time() -> None:
    world = World(Costs(tick_s=TICK_S, chunk_s=0.004, position_s=0.0005), slots=32)
    full_house(world, 30.0, slots=16)

    def come(slot: int) -> None:
        world.caller(slot, persona=lambda: prompt(f"voice {slot}", voice_positions=288))

    for slot in range(16, 32):
        world.at(8.0, functools.partial(come, slot))
    world.run(12.0)
    read_s = sum(e.ended_s - e.began_s for e in world.done if isinstance(e.work, Prefill) and e.began_s > 8.0)
    assert read_s <= PREFILL_SHARE * (1 - TICK_S / FRAME_S) * 4.0 * 1.05


@in_world
def test_nobody_starves_however_many_come_and_however_slow_ticks_are() -> None:
    world = World(Costs(tick_s=0.085, chunk_s=0.01, position_s=0.0005), slots=32)
    callers = full_house(world, 60.0)
    world.run(60.0)
    assert all(caller.live_s is not None for caller in callers)
    for caller in callers:
        gaps = [b.ended_s - a.ended_s for a, b in itertools.pairwise(caller.answered)]
        assert max(gaps) < 0.5
    ready = sorted(caller.live_s or 0 for caller in callers)
    assert ready == [caller.live_s for caller in callers], "first come, first served"


@in_world
def test_where_ticks_leave_hardly_anything_over_a_new_caller_waits_for_seconds_and_not_for_minutes() -> None:
    world = World(Costs(tick_s=0.077, chunk_s=0.005, position_s=0.0002), slots=33)
    full_house(world, 60.0, slots=32)
    late: list[Caller] = []
    world.at(15.0, lambda: late.append(world.caller(32, persona=lambda: prompt("late", voice_positions=288))))
    world.run(40.0)
    assert late[0].live_s is not None
    assert late[0].live_s - late[0].came_s < 15.0


@in_world
def test_while_nobody_talks_a_prompt_is_read_at_full_speed() -> None:
    world = World(Costs(chunk_s=0.004, position_s=0.0002))
    caller = world.caller(0, persona=lambda: prompt("a", voice_positions=500))
    world.run(5.0)
    assert caller.live_s is not None
    chunks = [each for each in world.done if isinstance(each.work, Prefill)]
    assert caller.live_s == pytest.approx(sum(each.ended_s - each.began_s for each in chunks) + 0.0005)


@in_world
def test_a_session_prompted_ahead_of_its_call_slows_no_prompt() -> None:
    world = World(Costs(chunk_s=0.004, position_s=0.0005))
    world.caller(0)
    world.run(10.0)
    late = world.caller(1, persona=lambda: prompt("b", voice_positions=288))
    world.run(20.0)
    assert late.live_s is not None
    assert late.live_s - late.came_s < 0.3


@in_world
def test_a_persona_that_is_known_is_live_at_once() -> None:
    world = World()
    world.caller(0)
    world.run(5.0)
    second = world.caller(1)
    world.run(6.0)
    assert second.live_s == pytest.approx(5.0005)


@in_world
def test_who_hangs_up_in_any_state_leaves_nothing_in_its_slot() -> None:
    world = World(Costs(chunk_s=0.02))
    for hang_up_s in (0.0, 0.01, 0.05, 1.0):
        persona = functools.partial(prompt, str(hang_up_s), voice_positions=100)
        caller = world.caller(0, frames=5, persona=persona)
        world.at(world.now_s + hang_up_s, caller.hang_up)
        world.run(world.now_s + 2.0)
    assert world.stepper._slots == {}
    assert world.engine.scheduler.conversations == {}


@in_world
def test_the_next_in_a_slot_gets_nothing_of_the_one_before() -> None:
    world = World()
    first = world.caller(0, frames=50)
    world.run(2.0)
    first.hang_up()
    second = world.caller(0, frames=20)
    world.run(10.0)
    assert len(second.answered) == 20
    assert len(first.answered) < 50


@in_world
def test_a_prompt_that_cannot_be_used_ends_its_own_conversation_alone() -> None:
    def broken() -> Prompt:
        raise ValueError("its voice is damaged")

    world = World()
    other = world.caller(0, frames=50)
    unlucky = world.caller(1, persona=broken)
    too_long = world.caller(2, persona=lambda: prompt("c", voice_positions=5000))
    world.run(10.0)
    assert unlucky.failed_because == "its voice is damaged"
    assert too_long.failed_because is not None
    assert "2900 is the most" in too_long.failed_because
    assert len(other.answered) == 50
    assert world.stepper._slots.keys() == {0}


def test_levels_are_told_in_decibels_of_full_scale() -> None:
    assert level_dbfs(SPEECH) == pytest.approx(-20)
    assert level_dbfs(HUSH) == pytest.approx(-60)
    assert level_dbfs(0 * HUSH) == -math.inf


@settings(max_examples=40, deadline=None)
@given(
    tick_s=st.floats(0.001, 0.2),
    slots=st.integers(1, 6),
    visits=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 4), st.integers(0, 40), st.integers(1, 400), st.booleans()),
        max_size=12,
    ),
)
def test_whatever_happens_each_frame_is_answered_once_in_order_or_counted(
    tick_s: float, slots: int, visits: list[tuple[float, float, int, int, bool]]
) -> None:
    @in_world
    def check() -> None:
        world = World(Costs(tick_s=tick_s), slots)
        callers: list[Caller] = []

        def come(number: int, stays_s: float, frames: int, positions: int, quiet: bool) -> None:
            slot = number % slots
            if slot in world.engine.scheduler.conversations:
                return
            caller = world.caller(
                slot,
                frames=frames,
                frame=hush if quiet else speech,
                persona=lambda: prompt(str(number), voice_positions=positions),
            )
            callers.append(caller)
            world.at(world.now_s + stays_s, caller.hang_up)

        for number, (at_s, stays_s, frames, positions, quiet) in enumerate(visits):
            world.at(at_s, functools.partial(come, number, stays_s, frames, positions, quiet))
        world.run(30.0)
        for caller in callers:
            said = [each.said_s for each in caller.answered]
            assert said == sorted(set(said))
            conversation = caller.conversation
            assert len(said) <= caller.said - conversation.cut - conversation.dropped_quiet
        assert world.stepper._slots == {}
        for tick in world.ticks:
            assert isinstance(tick.work, Tick)
            assert len({each.slot for each in tick.work.frames}) == len(tick.work.frames)

    check()
