"""The rehearsal engine: a real `/api/chat` server without a model, for trying everything without a GPU.

It stands where NVIDIA's server stands and behaves as that does, kindness excluded: both prompts are
mandatory, one session has a slot and the next client waits without a word, what comes before the handshake
is thrown away, the caller's audio is the clock, and a stream it cannot read leaves it deaf. It says plainly
what it is, in its log and to the caller. It can also play the faults of `pxbridge.simulation.faults`.

The one idea: a session is a *machine* that turns the caller's pages into steps (how the sound is made)
under a *session* that keeps the order of events (who may speak when). It serves with `websockets`' own
asyncio server, so that it shares no code with the sockets it is used to test.

Alone: `python -m pxbridge.simulation.rehearsal --port 8998 --mode echo --prompt-s 5 --step-ms 30`.
"""

from pxbridge.simulation.rehearsal.machines import Mode
from pxbridge.simulation.rehearsal.server import Rehearsal

__all__ = ["Mode", "Rehearsal"]
