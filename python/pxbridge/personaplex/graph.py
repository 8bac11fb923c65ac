"""A tick as one CUDA graph: a few hundred kernels are launched by one call. On the CPU it is the
function itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pxbridge.engine")

RUNS_BEFORE_CAPTURE = 3
"""Libraries set themselves up in their first runs, which a graph must not hold."""


class Graph:
    """Runs a function, from the second time on as a graph where that is possible.

    Args:
        function: Works on tensors that stay where they are, in place, without a word from the host.
        wanted: False always runs the function itself.
        device: Where the tensors are.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, *, wanted: bool) -> None:
        self._function = function
        self._pending = wanted and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def prepared(self) -> bool:
        """Whether `prepare` has nothing left to do."""
        return not self._pending

    @property
    def captured(self) -> bool:
        """Whether it runs as a graph."""
        return self._graph is not None

    def prepare(self) -> None:
        """Captures the graph, if it is wanted and was not tried yet. Runs the function a few times for it.

        What cannot be captured runs as a function; the log says so.
        """
        if not self._pending:
            return
        self._pending = False
        try:
            graph = torch.cuda.CUDAGraph()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(RUNS_BEFORE_CAPTURE):
                    self._function()
            torch.cuda.current_stream().wait_stream(aside)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            log.warning("ticks run without a CUDA graph, and slower: %s", error)
            return
        self._graph = graph

    def run(self) -> None:
        """Runs it."""
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()
