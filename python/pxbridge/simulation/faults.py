"""What can be wrong with an engine: a script for the rehearsal engine, so that tests can play every fault.

The one idea: a session asks each of its faults at four moments (the upgrade, the prompts, before a step,
when a step is sent), and a fault answers at the moment it is about. A fault is data; it keeps nothing
between sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge import chat_wire
from pxbridge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Faulty(Protocol):
    """What a fault can do to the session it is played in."""

    def cut(self) -> None:
        """Ends the connection without a closing handshake: the client sees 1006."""
        ...

    def close(self, code: int, reason: str) -> Awaitable[None]:
        """Ends the connection with a closing handshake."""
        ...

    def send(self, message: bytes) -> Awaitable[None]:
        """Sends one message."""
        ...

    def pause(self, delay_s: float) -> Awaitable[None]:
        """Lets time pass."""
        ...

    def forever(self) -> Awaitable[None]:
        """Waits until the session ends."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """Nothing wrong yet: what each fault overrides one moment of."""

    def refusal(self) -> int | None:
        """Returns the HTTP status that answers the upgrade, or None to accept it."""
        return None

    async def while_prompting(self, session: Faulty) -> None:
        """Is awaited between the upgrade and the handshake."""

    async def before_step(self, session: Faulty, step: int) -> None:
        """Is awaited before step number `step`, counted from 0."""

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Returns what is sent instead of the `messages` of this step (the header pages are step −1)."""
        return messages


@dataclass(frozen=True, slots=True)
class RefusesUpgrade(Fault):
    """Answers the upgrade with an HTTP error."""

    status: int = 503

    def refusal(self) -> int | None:
        """Returns the status."""
        return self.status


@dataclass(frozen=True, slots=True)
class StaysSilent(Fault):
    """Accepts and never says a word, as an engine does that somebody else has."""

    async def while_prompting(self, session: Faulty) -> None:
        """Waits for the client to give up."""
        await session.forever()


@dataclass(frozen=True, slots=True)
class BreaksOffPrompting(Fault):
    """Is gone while it reads its prompts: NVIDIA's server, with an unknown voice."""

    after_s: float = 0.0

    async def while_prompting(self, session: Faulty) -> None:
        """Cuts the connection."""
        await session.pause(self.after_s)
        session.cut()


@dataclass(frozen=True, slots=True)
class ClosesPrompting(Fault):
    """Closes while it reads its prompts, in good manners."""

    code: int = 1011
    reason: str = "cannot read the prompts"
    after_s: float = 0.0

    async def while_prompting(self, session: Faulty) -> None:
        """Closes the connection."""
        await session.pause(self.after_s)
        await session.close(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class ReportsErrorPrompting(Fault):
    """Sends an error message instead of the handshake, and leaves the closing to the client."""

    message: str = "no such voice"

    async def while_prompting(self, session: Faulty) -> None:
        """Sends the error."""
        await session.send(chat_wire.error(self.message))
        await session.forever()


@dataclass(frozen=True, slots=True)
class Dies(Fault):
    """Is gone from one step to the next, as when its process is killed."""

    after_steps: int = 0

    async def before_step(self, session: Faulty, step: int) -> None:
        """Cuts the connection at its step."""
        if step == self.after_steps:
            session.cut()
            await session.forever()


@dataclass(frozen=True, slots=True)
class Closes(Fault):
    """Ends a live session in good manners."""

    after_steps: int = 0
    code: int = 1001
    reason: str = "going away"

    async def before_step(self, session: Faulty, step: int) -> None:
        """Closes the connection at its step."""
        if step == self.after_steps:
            await session.close(self.code, self.reason)
            await session.forever()


@dataclass(frozen=True, slots=True)
class ReportsError(Fault):
    """Sends an error message in a live session and goes on."""

    after_steps: int = 0
    message: str = "out of memory"

    async def before_step(self, session: Faulty, step: int) -> None:
        """Sends the error at its step."""
        if step == self.after_steps:
            await session.send(chat_wire.error(self.message))


@dataclass(frozen=True, slots=True)
class Hangs(Fault):
    """Stays connected and never steps again."""

    after_steps: int = 0

    async def before_step(self, session: Faulty, step: int) -> None:
        """Waits for the client to give up."""
        if step == self.after_steps:
            await session.forever()


@dataclass(frozen=True, slots=True)
class Stalls(Fault):
    """Makes one step wait, after which the backlog is worked off as fast as steps go."""

    after_steps: int = 0
    for_s: float = 1.5

    async def before_step(self, session: Faulty, step: int) -> None:
        """Waits at its step."""
        if step == self.after_steps:
            await session.pause(self.for_s)


@dataclass(frozen=True, slots=True)
class Floods(Fault):
    """Sends the messages of one step many times over."""

    after_steps: int = 0
    times: int = 1000

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Repeats what its step sends."""
        return messages * self.times if step == self.after_steps else messages


_GARBAGE: Final = bytes(range(255, -1, -1)) + b"Ogg" + b"OggS\xff"


@dataclass(frozen=True, slots=True)
class SendsGarbage(Fault):
    """Puts bytes that are no page between the pages, the capture pattern among them."""

    every_steps: int = 10
    garbage: bytes = _GARBAGE

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Sends the garbage first."""
        return [chat_wire.audio(self.garbage), *messages] if _is_due(step, self.every_steps) else messages


@dataclass(frozen=True, slots=True)
class LosesPages(Fault):
    """Leaves pages out."""

    every_steps: int = 10

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Sends no audio."""
        return _texts(messages) if _is_due(step, self.every_steps) else messages


@dataclass(frozen=True, slots=True)
class TruncatesPages(Fault):
    """Sends only the first half of a page."""

    every_steps: int = 10

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Halves the audio messages."""
        if not _is_due(step, self.every_steps):
            return messages
        return [m[: len(m) // 2] if m[0] == chat_wire.Kind.AUDIO else m for m in messages]


@dataclass(frozen=True, slots=True)
class DamagesPages(Fault):
    """Flips a bit in a page's last byte, so that its checksum is wrong."""

    every_steps: int = 10

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Damages the audio messages."""
        if not _is_due(step, self.every_steps):
            return messages
        return [m[:-1] + bytes([m[-1] ^ 1]) if m[0] == chat_wire.Kind.AUDIO else m for m in messages]


@dataclass(frozen=True, slots=True)
class SplitsPages(Fault):
    """Sends every page in several messages: legal, as audio messages are bytes of one stream."""

    bytes_each: int = 50

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Cuts the audio messages up."""
        cut: list[bytes] = []
        for message in messages:
            kind, payload = message[:1], message[1:]
            if kind[0] == chat_wire.Kind.AUDIO:
                cut += [
                    kind + payload[at : at + self.bytes_each]
                    for at in range(0, len(payload), self.bytes_each)
                ]
            else:
                cut.append(message)
        return cut


@dataclass(frozen=True, slots=True)
class ChattersOddly(Fault):
    """Sends with every step what a client must step over: kinds unknown or unused, no bytes at all."""

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Adds the oddities."""
        return [
            b"",
            b"\xff\x00",
            b"\x03\x00",
            chat_wire.metadata({"step": step}),
            chat_wire.ping(),
            *messages,
        ]


def _is_due(step: int, every_steps: int) -> bool:
    return step >= 0 and step % every_steps == every_steps - 1


def _texts(messages: list[bytes]) -> list[bytes]:
    return [message for message in messages if message[0] != chat_wire.Kind.AUDIO]


FAULTS: Final = {
    fault.__name__: fault
    for fault in (
        RefusesUpgrade,
        StaysSilent,
        BreaksOffPrompting,
        ClosesPrompting,
        ReportsErrorPrompting,
        Dies,
        Closes,
        ReportsError,
        Hangs,
        Stalls,
        Floods,
        SendsGarbage,
        LosesPages,
        TruncatesPages,
        DamagesPages,
        SplitsPages,
        ChattersOddly,
    )
}
"""By the name that a command line says."""


def parse_fault(text: str) -> Fault:
    """A fault as it is written on a command line: ``Hangs`` or ``Floods:after_steps=20,times=500``.

    Raises:
        InputError: There is no such fault, it has no such field, or the value is none for it.
    """
    name, _, values = text.partition(":")
    kind = FAULTS.get(name)
    if kind is None:
        raise InputError(f"no such fault: {name!r}; there are {', '.join(FAULTS)}")
    defaults = {field.name: field.default for field in fields(kind)}
    given: dict[str, float | str] = {}
    for one in filter(None, values.split(",")):
        key, _, value = one.partition("=")
        default = defaults.get(key)
        try:
            match default:
                case int():
                    given[key] = int(value)
                case float():
                    given[key] = float(value)
                case str():
                    given[key] = value
                case _:
                    raise InputError(f"{name} has no field {key!r} that could be set here")
        except ValueError:
            raise InputError(f"{name}: {value!r} is no number for {key}") from None
    return kind(**given)  # type: ignore[arg-type]
