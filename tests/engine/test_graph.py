"""What can be shown of CUDA graphs without CUDA: what runs around their capture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import torch
from tests.engine.rig import golden_conversation, golden_lm, lm_model, open_live, step

from pxbridge.personaplex.graph import RUNS_BEFORE_CAPTURE, Graph

if TYPE_CHECKING:
    import pytest


class Captured(Graph):
    """Runs the function as often as a capture does, and from then on is what a graph is: always the same."""

    recorded = False

    @property
    def prepared(self) -> bool:
        return self.recorded

    @property
    def captured(self) -> bool:
        return self.recorded

    def prepare(self) -> None:
        for _ in range(RUNS_BEFORE_CAPTURE):
            self.run()
        self.recorded = True


def test_a_graph_that_is_captured_while_callers_talk_disturbs_none_of_them() -> None:
    callers = [golden_conversation(case) for case in range(3)]
    model = lm_model(slots=3, context=45)  # wraps
    expected = lm_model(slots=3, context=45)
    again = [caller.again() for caller in callers]
    for slot in range(2):
        open_live(model, slot, callers[slot])
        open_live(expected, slot, again[slot])
    model.open(2, callers[2].prompt, callers[2].sampling)
    expected.open(2, again[2].prompt, again[2].sampling)
    for number in range(40):
        if number == 10:
            model._tick = Captured(model._run_tick, torch.device("cpu"), wanted=True)
        if number in (5, 15):
            model.prefill(2, 17)
            expected.prefill(2, 17)
        live = (0, 1, 2) if number > 15 else (0, 1)
        step(model, {slot: callers[slot] for slot in live})
        step(expected, {slot: again[slot] for slot in live})
    for caller, other in zip(callers, again, strict=True):
        np.testing.assert_array_equal(caller.tokens, other.tokens)
    assert (callers[0].tokens[:15] == golden_lm(0)[:15]).all()


def test_on_a_cpu_the_function_itself_runs() -> None:
    runs = []
    graph = Graph(lambda: runs.append(1), torch.device("cpu"), wanted=True)
    assert graph.prepared
    graph.prepare()
    assert not runs
    graph.run()
    assert (len(runs), graph.captured) == (1, False)


def test_what_cannot_be_captured_runs_as_a_function_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    runs = []
    graph = Graph(lambda: runs.append(1), torch.device("cuda"), wanted=True)
    broken = mock.patch.object(torch.cuda, "CUDAGraph", side_effect=RuntimeError("capture is not permitted"))
    with broken, caplog.at_level(logging.WARNING, "pxbridge.engine"):
        graph.prepare()
    assert "without a CUDA graph, and slower: capture is not permitted" in caplog.text
    assert graph.prepared
    graph.run()
    assert len(runs) == 1


def test_a_graph_that_is_not_wanted_is_not_tried() -> None:
    graph = Graph(lambda: None, torch.device("cuda"), wanted=False)
    assert graph.prepared
    assert not graph.captured
