"""The sound of one call: passes the messages of both sockets to `Line`, and sends what `Line` returns.

Each message is one call into Rust, with no task, queue or timer. The call returns everything that follows
from the message: bytes for the phone, bytes for the engine, whether to ping, when to call again, and events.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.calls.wakeup_timer import WakeupTimer
    from pxbridge.engines.session import Session
    from pxbridge.errors import EngineLost
    from pxbridge.telephony.phone_line import Audio, LineEvent, LineOutput, PhoneLine
    from pxbridge.websocket import WebSocket


def _ignore(*_: object) -> None:
    pass


class CallLine:
    """Carries sound between a phone's socket and the engine's session that is connected to it.

    Args:
        line: The state of the sound, in Rust.
        phone: The phone's socket.
        rate_hz: The line's rate.
        wakeups: The process's timer.
        on_other: Called with each message from the phone that is neither sound nor a mark that came back, and
            whether it is text.
        on_event: Called with what happens on the line.
        on_text: Called with each piece of what the agent says.

    Attributes:
        phone_heard_s: When the phone last sent something.
    """

    def __init__(
        self,
        line: PhoneLine,
        phone: WebSocket,
        rate_hz: int,
        wakeups: WakeupTimer,
        *,
        on_other: Callable[[bytes, bool], None],
        on_event: Callable[[LineEvent], None],
        on_text: Callable[[str], None],
    ) -> None:
        self.rate_hz = rate_hz
        self.takes_own_sound = True
        """Whether `play` plays: not once the call is ending, except for what is queued already."""
        self._line = line
        self._phone = phone
        self._clock = asyncio.get_running_loop().time
        self.phone_heard_s = self._clock()
        self._on_other = on_other
        self._on_event = on_event
        self._on_text = on_text
        self._session: Session | None = None
        self._wakeup = wakeups.wakeup(self._on_wakeup)

    def close(self) -> None:
        """Does nothing from now on, and lets go of those who listen."""
        self._wakeup.cancel()
        self._session = None
        self._on_other = self._on_event = self._on_text = _ignore

    def _apply(self, output: LineOutput) -> None:
        """Does what follows from one input."""
        if output.to_phone:
            self._phone.send_all(output.to_phone)
        if (ogg := output.to_engine) and self._session is not None:
            self._session.send_audio(ogg)
        if output.ping:
            self._phone.ping()
        self._wakeup.set(output.wake_s)
        for event in output.events:
            self._on_event(event)

    def _on_wakeup(self) -> None:
        self._apply(self._line.poll(self._clock()))

    # -- the phone ------------------------------------------------------------------------------------

    def start(self) -> None:
        """The call has begun: takes over the phone's messages. The phone hears something, if only silence."""
        self._phone.on_message = self._on_phone_message
        self._apply(self._line.poll(self._clock()))

    def _on_phone_message(self, message: bytes, is_text: bool) -> None:
        self.phone_heard_s = now_s = self._clock()
        output = self._line.phone_message(message, now_s, is_text)
        if output is None:
            self._on_other(message, is_text)
        else:
            self._apply(output)

    def mark_played(self, name: str) -> None:
        """The phone has played everything before this mark."""
        self._apply(self._line.mark_played(name, self._clock()))

    def pong(self, rtt_s: float) -> None:
        """A ping of the phone's socket came back after `rtt_s`."""
        self._apply(self._line.pong(rtt_s, self._clock()))

    def flush(self) -> None:
        """Drops what the caller has not heard."""
        self._apply(self._line.flush(self._clock()))

    # -- the engine -----------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The engine's session that is connected."""
        return self._session

    def connect(self, session: Session, on_close: Callable[[EngineLost | None], None]) -> None:
        """Connects phone and engine, until `disconnect`.

        Args:
            session: A live session that has no listener yet.
            on_close: Called once when the session ends; with None if the bridge ended it.
        """
        self._session = session
        session.listen(on_audio=self._on_engine_audio, on_text=self._on_text, on_close=on_close)
        self._apply(self._line.open_engine(self._clock()))

    def disconnect(self) -> None:
        """The engine is gone, or is no longer wanted. What it said last still reaches the phone."""
        if self._session is not None:
            self._session = None
            self._apply(self._line.close_engine(self._clock()))

    def _on_engine_audio(self, ogg: bytes) -> None:
        self._apply(self._line.engine_audio(ogg, self._clock()))

    @property
    def agent_paused_s(self) -> float:
        """How long the agent has paused; infinity while it has not spoken."""
        paused_s = self._line.paused_s
        return math.inf if paused_s is None else paused_s

    @property
    def engine_audio_s(self) -> tuple[float, float]:
        """Seconds of sound that engines were sent and that came from them, since the call's start."""
        return self._line.exchanged_s

    @property
    def spoken_s(self) -> tuple[float, float]:
        """How long the caller has spoken, and the agent, in seconds."""
        return self._line.spoken_s

    # -- the bridge's own sound -----------------------------------------------------------------------

    def play(self, pcm: NDArray[np.float32]) -> None:
        """Queues sound behind what plays. It is heard until an engine speaks."""
        if self.takes_own_sound:
            self._apply(self._line.play(pcm, self._clock()))

    def fade_out(self) -> None:
        """Ends the bridge's own sound with a fade."""
        self._apply(self._line.fade_out(self._clock()))

    async def wait_played(self, all_but_s: float = 0.0) -> None:
        """Waits until what is queued has been heard, except the last `all_but_s` of it."""
        while (left_s := self._line.playing_s(self._clock()) - all_but_s) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)

    def finish(self) -> None:
        """Nothing more will be said. `AllPlayed` follows when the caller has heard everything."""
        self._apply(self._line.finish(self._clock()))

    # -- what is known --------------------------------------------------------------------------------

    def stats(self) -> dict[str, dict[str, float]]:
        """The line's counters so far: ``uplink`` and ``downlink``."""
        return self._line.stats()

    def keep_audio(self) -> Callable[[], tuple[Audio, Audio]]:
        """From now on keeps what caller and agent say. The returned function fetches both."""
        self._line.keep_audio()

        def fetch() -> tuple[Audio, Audio]:
            now_s = self._clock()
            return self._line.take_said(now_s), self._line.take_heard(now_s)

        return fetch
