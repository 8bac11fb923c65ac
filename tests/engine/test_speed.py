"""A gate on speed: eight callers at once cost each at most a third of what they cost one at a time."""

from __future__ import annotations

import time

from tests.engine.rig import ENGINE_CASES, Conversation, open_live, prompt, sound_frames, tiny_model

SLOTS = 8
MOST = 1 / 3
TICKS = 15
ROUNDS = 7


def seconds_a_frame(slots: int) -> float:
    """Processor time of the fastest round, so that other processes do not count."""
    model = tiny_model(slots=slots)
    frame = sound_frames(ENGINE_CASES["pcm_0"])[0]
    for slot in range(slots):
        open_live(model, slot, Conversation(prompt(0), []))
    frames = dict.fromkeys(range(slots), frame)
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TICKS):
            model.step(frames)
        rounds.append(time.process_time() - began)
    return min(rounds) / (TICKS * slots)


def test_eight_callers_at_once_cost_at_most_a_third_each() -> None:
    alone, together = seconds_a_frame(1), seconds_a_frame(SLOTS)
    assert together <= alone * MOST, f"{together * 1e3:.2f} ms a frame, {alone * 1e3:.2f} ms alone"
