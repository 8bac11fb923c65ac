"""The rehearsal engine: a real `/api/chat` server without a model, to try everything without a GPU.

It behaves like NVIDIA's server, with all its strictness. Both prompts are mandatory. One session occupies a
slot, and the next client waits without an answer. Audio before the handshake is discarded. The caller's audio
is the clock. A stream that it cannot read makes it deaf. It says what it is, in its log and to the caller. It
can also play the faults of `pxbridge.simulation.faults`.

A *machine* turns the caller's packets into steps of sound; a *session* controls the order of events. The
server is that of `websockets`, so that it shares no code with the sockets that it tests.

Alone: `python -m pxbridge.simulation.rehearsal --port 8998 --mode echo --prompt-s 5 --step-ms 30`.
"""

from pxbridge.simulation.rehearsal.machines import Mode
from pxbridge.simulation.rehearsal.server import Rehearsal

__all__ = ["Mode", "Rehearsal"]
