"""A program that runs as our child, and the last lines that it printed.

The child has a process group of its own, so that Ctrl-C in a terminal does not cut its tunnel while calls are
still live. The program on the PATH may be a script that starts the real one, so `Child.stop` ends the group.

On Linux the child also ends when this process is killed: otherwise the tunnel would lead to the next program
that uses the port. The kernel ends only the child itself then. The program behind a script lives on, unless
the script starts it by `exec`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("pxbridge.tunnel")

KEPT_LINES: Final = 40
MAX_LINE_CHARS: Final = 2000
STOP_TIMEOUT_S: Final = 5.0
"""cloudflared ends 0.3 s after SIGTERM."""
KILL_TIMEOUT_S: Final = 1.0
"""The kernel ends a group in milliseconds. A program that has left the group keeps the pipe for longer."""

_LAUNCHER: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"  # PR_SET_PDEATHSIG; it stays in force over exec
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"  # our parent has ended before that
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
"""Runs in the child before the program. A function between fork and exec could deadlock: we have threads."""
_READ_BYTES: Final = 65_536

_OWN_SETTINGS: Final = "PXBRIDGE_"
SECRET_VARIABLES: Final = ("NGROK_AUTHTOKEN", "NGROK_API_KEY", "BORE_SECRET", "TUNNEL_TOKEN")
"""Variables of the programs' own that hold a secret."""

_SECRET: Final = re.compile(
    r"(?i)((?:auth|api)?[-_ ]?(?:token|secret|key)\b[\"']?\s*[:=]\s*)[\"']?[^\s\"',}]+"
)
_TOKEN: Final = re.compile(r"(/t/)[^/?#\s\"']+")
"""A request's path may hold a caller's token, and cloudflared prints the paths that it could not pass on."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_MASK: Final = "***"


class Child:
    """A running program.

    Args:
        process: The program.
        on_line: Called with each line that it prints, without secrets.
        secrets: Texts to mask in its lines.

    Attributes:
        lines: Its last lines, without secrets.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, on_line: Callable[[str], None], secrets: Sequence[str]
    ) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._process = process
        self._on_line = on_line
        self._secrets = [secret for secret in secrets if secret]
        self._ended = asyncio.create_task(self._run(), name="tunnel program")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, once all that it printed was read; None while it runs."""
        return self._process.returncode if self._ended.done() else None

    async def wait(self, timeout_s: float) -> None:
        """Returns when it has ended, or after `timeout_s`."""
        await asyncio.wait([self._ended], timeout=timeout_s)

    async def stop(self) -> None:
        """Ends it and its group: SIGTERM, and SIGKILL to those that do not go.

        It has a limit: STOP_TIMEOUT_S and KILL_TIMEOUT_S. If it is cancelled, SIGKILL is sent at once.
        """
        try:
            self._signal(signal.SIGTERM)
            await self.wait(STOP_TIMEOUT_S)
        finally:
            self._signal(signal.SIGKILL)
        await self.wait(KILL_TIMEOUT_S)
        if not self._ended.done():
            log.warning(
                "the tunnel program's output is still open %g s after SIGKILL: a program that it started in "
                "another process group still runs, and the tunnel may still be open",
                KILL_TIMEOUT_S,
            )

    def _signal(self, number: signal.Signals) -> None:
        """Signals the group, which may outlive the program that it is named after."""
        # The group is gone, or (macOS) has only ended processes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _run(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        rest = ""
        while data := await self._process.stdout.read(_READ_BYTES):
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            for line in lines:
                self._take(line)
            rest = rest[:_READ_BYTES]
        self._take(rest)
        await self._process.wait()

    def _take(self, line: str) -> None:
        text = _COLOUR.sub("", line).rstrip()
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        text = _TOKEN.sub(rf"\1{_MASK}", _SECRET.sub(rf"\1{_MASK}", text))
        if text := text[:MAX_LINE_CHARS]:  # cut last: half a secret would not be known as one
            self.lines.append(text)
            self._on_line(text)


async def start(
    command: Sequence[str], environ: Mapping[str, str], on_line: Callable[[str], None], install: str
) -> Child:
    """Starts a program.

    Args:
        command: The program and its arguments.
        environ: Our environment. The program gets it without the bridge's own settings and secrets.
        on_line: Called with each line that it prints, without secrets.
        install: Where to get the program.

    Raises:
        InputError: There is no such program, or it cannot be started.
    """
    own = {name: value for name, value in environ.items() if not name.startswith(_OWN_SETTINGS)}
    # Colours would stand between the words that are read.
    own["NO_COLOR"] = "1"
    program = shutil.which(command[0], path=own.get("PATH"))
    if program is None:
        raise InputError(f"{command[0]} is not installed: {install}")
    try:
        process = await asyncio.create_subprocess_exec(
            *_ending_with_us((program, *command[1:])),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=own,
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started: {error.strerror or error}") from None
    return Child(process, on_line, [own.get(name, "") for name in SECRET_VARIABLES])


def _ending_with_us(command: Sequence[str]) -> Sequence[str]:
    """A command that the kernel ends when we are gone. Only Linux can do that."""
    if sys.platform != "linux":
        return command
    return (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command)
