"""Faults of an engine, which the rehearsal engine can play for tests.

A session asks each of its faults at four moments: at the upgrade, while it prompts, before a step, and when a
step is sent. A fault acts at one of them. It is data, and keeps no state between sessions.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge import chat_wire
from pxbridge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Faulty(Protocol):
    """What a fault can do to its session."""

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
    """No fault. Each fault overrides one of the moments."""

    def refusal(self) -> int | None:
        """The HTTP status that answers the upgrade; None accepts it."""
        return None

    async def while_prompting(self, session: Faulty) -> None:
        """Awaited between the upgrade and the handshake."""

    async def before_step(self, session: Faulty, step: int) -> None:
        """Awaited before step number `step`, counted from 0."""

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """The messages that are sent in place of those of this step. The header pages are step −1."""
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
    """Accepts and sends nothing, like an engine that is in use."""

    async def while_prompting(self, session: Faulty) -> None:
        """Waits for the client to give up."""
        await session.forever()


@dataclass(frozen=True, slots=True)
class BreaksOffPrompting(Fault):
    """Breaks off while it prompts, like NVIDIA's server with an unknown voice."""

    after_s: float = 0.0

    async def while_prompting(self, session: Faulty) -> None:
        """Cuts the connection."""
        await session.pause(self.after_s)
        session.cut()


@dataclass(frozen=True, slots=True)
class ClosesPrompting(Fault):
    """Closes while it prompts, with a closing handshake."""

    code: int = 1011
    reason: str = "cannot read the prompts"
    after_s: float = 0.0

    async def while_prompting(self, session: Faulty) -> None:
        """Closes the connection."""
        await session.pause(self.after_s)
        await session.close(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class ReportsErrorPrompting(Fault):
    """Sends an error message instead of the handshake, and lets the client close."""

    message: str = "no such voice"

    async def while_prompting(self, session: Faulty) -> None:
        """Sends the error."""
        await session.send(chat_wire.error(self.message))
        await session.forever()


@dataclass(frozen=True, slots=True)
class Dies(Fault):
    """Breaks off before a step, as if its process were killed."""

    after_steps: int = 0

    async def before_step(self, session: Faulty, step: int) -> None:
        """Cuts the connection at its step."""
        if step == self.after_steps:
            session.cut()
            await session.forever()


@dataclass(frozen=True, slots=True)
class Closes(Fault):
    """Ends a live session with a closing handshake."""

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
    """Sends an error message in a live session and continues."""

    after_steps: int = 0
    message: str = "out of memory"

    async def before_step(self, session: Faulty, step: int) -> None:
        """Sends the error at its step."""
        if step == self.after_steps:
            await session.send(chat_wire.error(self.message))


@dataclass(frozen=True, slots=True)
class Hangs(Fault):
    """Stays connected and never makes another step."""

    after_steps: int = 0

    async def before_step(self, session: Faulty, step: int) -> None:
        """Waits for the client to give up."""
        if step == self.after_steps:
            await session.forever()


@dataclass(frozen=True, slots=True)
class Stalls(Fault):
    """Delays one step. Afterwards the backlog is processed as fast as steps allow."""

    after_steps: int = 0
    for_s: float = 1.5

    async def before_step(self, session: Faulty, step: int) -> None:
        """Waits at its step."""
        if step == self.after_steps:
            await session.pause(self.for_s)


@dataclass(frozen=True, slots=True)
class Floods(Fault):
    """Sends the messages of one step many times."""

    after_steps: int = 0
    times: int = 1000

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Repeats what its step sends."""
        return messages * self.times if step == self.after_steps else messages


_GARBAGE: Final = bytes(range(255, -1, -1)) + b"Ogg" + b"OggS\xff"


@dataclass(frozen=True, slots=True)
class SendsGarbage(Fault):
    """Sends bytes between the pages that are not a page, with the capture pattern among them."""

    every_steps: int = 10
    garbage: bytes = _GARBAGE

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Sends the garbage first."""
        return [chat_wire.audio(self.garbage), *messages] if _is_due(step, self.every_steps) else messages


@dataclass(frozen=True, slots=True)
class LosesPages(Fault):
    """Omits pages."""

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
    """Sends every page in several messages. This is legal: audio messages are bytes of one stream."""

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
    """Sends with every step messages that a client must ignore: of unknown or unused kinds, or empty."""

    def sending(self, step: int, messages: list[bytes]) -> list[bytes]:
        """Adds the odd messages."""
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
"""The faults by their names on a command line."""


def described() -> list[str]:
    """A line for each fault: its name, its fields with their defaults, and what it does."""
    return [_described(name, kind) for name, kind in FAULTS.items()]


def _described(name: str, kind: type[Fault]) -> str:
    defaults = [(each.name, each.default) for each in fields(kind)]
    able = ", ".join(f"{key}={value}" for key, value in defaults if isinstance(value, int | float | str))
    about = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return f"  {name:23}{about.removesuffix('.')}{f' ({able})' if able else ''}"


def parse_fault(text: str) -> Fault:
    """Parses a fault of a command line: ``Hangs`` or ``Floods:after_steps=20,times=500``.

    Raises:
        InputError: The fault, one of its fields or a value does not exist.
    """
    name, _, values = text.partition(":")
    kind = FAULTS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"no such fault: {name!r}{meant}; the faults are {', '.join(FAULTS)}")
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
                    raise InputError(f"{name} has no field {key!r} that can be set here")
        except ValueError:
            raise InputError(f"{name}: {value!r} is not a number, which {key} needs") from None
    return kind(**given)  # type: ignore[arg-type]
