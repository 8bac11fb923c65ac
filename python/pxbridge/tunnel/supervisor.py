"""Keeps a tunnel open: starts the program, proves the tunnel, watches it, and starts it again.

::

    check    the port must refuse clients without a secret
    start    the program; wait until it has a public address
    dial     the public URL, as a carrier does, until the port answers
    watch    the process, and the public address at intervals
    pause    after a failure: 1 s, doubled each time up to a minute

A tunnel that cannot be reached is started again only while the port itself answers. If the port is gone, its
program is being restarted, and the tunnel keeps its address.

What somebody has to mend ends the first start. A tunnel that was open before is tried again: its settings
may be half written, or not in force yet. A port that admits anybody ends it at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from pxbridge.errors import (
    ConfigError,
    HandshakeFailed,
    HandshakeRefused,
    InputError,
    PxbridgeError,
    TunnelFailed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pxbridge.tunnel.checks import Checks
    from pxbridge.tunnel.program import Program, Programs
    from pxbridge.tunnel.target import Target

_UNAUTHORISED = 401


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long things may take, in seconds.

    Attributes:
        poll_s: How often a program is asked for its address.
        address_s: A program may take so long to have one.
        dial_s: A new address may take so long to be reachable. Names need some seconds to become known.
        redial_s: Between two attempts to dial.
        check_s: How often an open tunnel is checked.
        failed_checks: After so many failed checks in a row it is started again.
        guard_s: How often an open tunnel's port is asked whether it still refuses strangers.
        first_pause_s: Before the first new start.
        longest_pause_s: Pauses are doubled up to this.
        steady_s: After a tunnel was open for this long, pauses start from the shortest again.
    """

    poll_s: float = 0.25
    address_s: float = 30.0
    dial_s: float = 60.0
    redial_s: float = 1.0
    check_s: float = 15.0
    failed_checks: int = 3
    guard_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    steady_s: float = 120.0


class Running(Protocol):
    """A started program; `pxbridge.tunnel.child.Child` is one."""

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        ...

    @property
    def lines(self) -> Iterable[str]:
        """Its last lines."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Returns when it has ended, or after `timeout_s`."""
        ...

    async def stop(self) -> None:
        """Ends it."""
        ...


class Observer(Protocol):
    """Who is told what becomes of the tunnel."""

    def opened(self, target: Target, address: str, before: str | None) -> None:
        """The public URL was dialled and the port answered.

        Args:
            target: The port.
            address: Its public address.
            before: The last one; None at the first time.
        """
        ...

    def failed(self, why: str, again_in_s: float) -> None:
        """The tunnel did not open, or is lost. It is started again."""
        ...


class Supervisor:
    """Keeps one tunnel open.

    Args:
        programs: The kind of program.
        start: Starts a program.
        target: Gives the port behind the tunnel and its secret; asked before each start, because a secret may
            have been changed. It may raise ConfigError, or TunnelFailed to be asked again.
        checks: Makes the checks of a target.
        observer: Is told what happens.
        schedule: How long things may take.
    """

    def __init__(
        self,
        programs: Programs,
        start: Callable[[Program], Awaitable[Running]],
        target: Callable[[], Awaitable[Target]],
        checks: Callable[[Target], Checks],
        observer: Observer,
        schedule: Schedule | None = None,
    ) -> None:
        self._programs = programs
        self._start = start
        self._target = target
        self._checks = checks
        self._observer = observer
        self._schedule = schedule or Schedule()
        self._address: str | None = None
        self._opened_s: float | None = None

    async def run(self) -> NoReturn:
        """Keeps the tunnel open until it is cancelled; then the program has ended.

        Raises:
            InputError: The port admits clients without a secret. Or, before the tunnel was open for the first
                time: the program is not installed, or nothing listens at the port.
            ConfigError: Before that: the settings cannot be used.
            HandshakeRefused: Before that: the port does not accept its own secret.
        """
        schedule = self._schedule
        pause_s = schedule.first_pause_s
        while True:
            self._opened_s = None
            try:
                await self._once()
            except TunnelFailed as failed:
                if self._was_steady():
                    pause_s = schedule.first_pause_s
                self._observer.failed(str(failed), pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, schedule.longest_pause_s)

    def _was_steady(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return self._opened_s is not None and now_s - self._opened_s >= self._schedule.steady_s

    async def _once(self) -> NoReturn:
        """One start of the program; raises TunnelFailed in the end."""
        try:
            target = await self._target()
        except ConfigError as error:
            raise self._for_now(error) from None
        checks = self._checks(target)
        await self._require_guard(target, checks)
        program = self._programs.new(target.host, target.port)
        try:
            running = await self._start(program)
        except InputError as error:
            raise self._for_now(error) from None
        connected = False
        try:
            address = await self._address_of(program, running)
            await self._dial(target, checks, program, running, address)
            connected = True
            before, self._address = self._address, address
            self._opened_s = asyncio.get_running_loop().time()
            self._observer.opened(target, address, before)
            await self._watch(target, checks, program, running, address)
        except Exception:
            if not connected:
                with contextlib.suppress(Exception):
                    self._programs.failed(await program.is_connected())
            raise
        finally:
            await _stop(running)

    def _for_now(self, error: PxbridgeError) -> PxbridgeError:
        """An error that ends the first start only."""
        return error if self._address is None else TunnelFailed(str(error))

    async def _require_guard(self, target: Target, checks: Checks) -> None:
        guarded = await checks.is_guarded()
        if guarded is None:
            raise self._for_now(
                InputError(f"nothing listens at port {target.port} of {target.host}; start it first")
            )
        if not guarded:
            raise InputError(
                f"port {target.port} admits anybody, so no tunnel is opened to it: "
                "set a password or a token, and start it again"
            )

    async def _address_of(self, program: Program, running: Running) -> str:
        """The public address, as soon as the program has one."""
        deadline_s = asyncio.get_running_loop().time() + self._schedule.address_s
        while True:
            if (address := await program.address()) is not None:
                return address
            if running.status is not None:
                raise TunnelFailed(self._why_ended(program, running))
            if asyncio.get_running_loop().time() >= deadline_s:
                raise TunnelFailed(
                    self._because(program, running, f"no address within {self._schedule.address_s:g} s")
                )
            await running.wait(self._schedule.poll_s)

    async def _dial(
        self, target: Target, checks: Checks, program: Program, running: Running, address: str
    ) -> None:
        """Returns once the port has answered at its public URL."""
        deadline_s = asyncio.get_running_loop().time() + self._schedule.dial_s
        while True:
            try:
                return await checks.dial(address)
            except HandshakeRefused as refused:
                if refused.status == _UNAUTHORISED:
                    raise self._for_now(refused) from None
                problem = str(refused)
            except TimeoutError:
                problem = "no answer"
            except (OSError, HandshakeFailed) as error:
                problem = str(error)
            if running.status is not None:
                raise TunnelFailed(self._why_ended(program, running))
            if asyncio.get_running_loop().time() >= deadline_s:
                reached = f"{address} cannot be reached: {problem}"
                if not await program.is_connected():
                    reached = f"{self._programs.name} reaches no server of its network; {reached}"
                raise TunnelFailed(reached)
            await running.wait(self._schedule.redial_s)

    async def _watch(
        self, target: Target, checks: Checks, program: Program, running: Running, address: str
    ) -> NoReturn:
        """Returns never: raises TunnelFailed when the tunnel is lost."""
        schedule = self._schedule
        failed = 0
        guarded_s = asyncio.get_running_loop().time()
        while True:
            await running.wait(schedule.check_s)
            if running.status is not None:
                raise TunnelFailed(self._why_ended(program, running))
            if await checks.is_reached(address):
                failed = 0
            elif await checks.is_alive():
                failed += 1
            if failed >= schedule.failed_checks:
                raise TunnelFailed(
                    f"{address} has not answered {failed} times"
                    if await program.is_connected()
                    else f"{self._programs.name} has lost its network"
                )
            if (now_s := asyncio.get_running_loop().time()) - guarded_s >= schedule.guard_s:
                if await checks.is_guarded() is False:
                    await self._require_guard(target, checks)
                guarded_s = now_s

    def _why_ended(self, program: Program, running: Running) -> str:
        return self._because(program, running, f"ended with status {running.status}")

    def _because(self, program: Program, running: Running, what: str) -> str:
        words = program.last_words(list(running.lines))
        return f"{self._programs.name}: {what}" + (f": {words}" if words else "")


async def _stop(running: Running) -> None:
    """Ends the program. Returns only when it has ended, even if the task is cancelled again meanwhile."""
    stopping = asyncio.ensure_future(running.stop())
    cancelled: asyncio.CancelledError | None = None
    while not stopping.done():
        try:
            await asyncio.wait([stopping])  # it does not pass a cancellation on
        except asyncio.CancelledError as error:
            cancelled = error
    stopping.result()
    if cancelled is not None:
        raise cancelled
