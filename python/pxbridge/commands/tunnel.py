"""`pxbridge tunnel`: a public address for a bridge or an engine that runs on this machine.

`pxbridge --tunnel` and `pxbridge engine --tunnel` do the same for the port that they open themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge import periodic, settings
from pxbridge.app import lifecycle
from pxbridge.app.deadline import Deadline
from pxbridge.app.reload import READ_TIMEOUT_S, in_thread
from pxbridge.chat_wire import CHAT_PATH
from pxbridge.commands.engine_serve import TOKEN_VARIABLE, token_in
from pxbridge.commands.tunnel_option import ANY, PROGRAMS
from pxbridge.errors import ConfigError, InputError, PxbridgeError, TunnelFailed
from pxbridge.ops.logs import logging_to
from pxbridge.ops.systemd import in_journal
from pxbridge.rate_limit import parsed_address
from pxbridge.telephony.tokens import Scope, Signer
from pxbridge.tunnel import child, target
from pxbridge.tunnel.bore import Bore
from pxbridge.tunnel.checks import RealChecks, port_is_engines
from pxbridge.tunnel.cloudflared import Cloudflared
from pxbridge.tunnel.ngrok import Ngrok
from pxbridge.tunnel.supervisor import Supervisor

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from typing import Any

    from rich.console import Console

    from pxbridge.settings import Loaded, Settings
    from pxbridge.tunnel.program import Program, Programs
    from pxbridge.tunnel.target import Target

log = logging.getLogger("pxbridge.tunnel")

APPLET_PATH: Final = "/exotel"
TOKEN_TTL_S: Final = 90 * 86_400.0
"""As `pxbridge token` makes them. A tunnel's address rarely lasts as long."""

_EPILOG = f"""\
The port may be a bridge's or an engine's. A bridge needs credentials or token_keys, an engine a token
({TOKEN_VARIABLE}): no tunnel is opened to a port that admits anybody.

cloudflared needs no account; its address is another one at each start. ngrok needs its account's token. bore
brings no TLS, so carriers cannot dial it; BORE_SERVER names its server.

examples:
  pxbridge tunnel --config pxbridge.toml
  {TOKEN_VARIABLE}=... pxbridge tunnel ngrok --port 8998
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "program",
        nargs="?",
        default=ANY,
        choices=(ANY, *PROGRAMS),
        help=f"the tunnel program; {ANY}: the first that is installed (default: %(default)s)",
    )
    parser.epilog = _EPILOG
    settings.add_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Keeps a tunnel open until a signal ends it; returns the exit status.

    Raises:
        ConfigError: No setting says who may come in, or one of them does not go with a tunnel.
        InputError: No tunnel program is installed, nothing listens at the port, or it admits anybody.
        HandshakeRefused: The port does not accept the secret of these settings.
    """

    def read() -> Loaded:
        return settings.load(vars(args), _without_token(os.environ))

    loaded = read()
    host, port = _here(loaded.settings.host), loaded.settings.port
    if await port_is_engines(host, port, CHAT_PATH):
        lead_to = engine_target(host, port, os.environ)
    else:
        bridge_target(loaded, port)  # raises before the program starts
        lead_to = SettingsReader(read).lead_to(port)

    programs = find_program(args.program, os.environ)
    with logging_to(None, loaded.settings.log_level, loaded.settings.log_format):
        return await _until_signalled(keep_open(programs, lead_to, console))


async def serve(loaded: Loaded, name: str, console: Console, read_again: Callable[[], Loaded]) -> int:
    """Serves calls, with a tunnel to the port; returns the exit status.

    A tunnel that fails costs no call that comes another way: the bridge goes on.

    Raises:
        ConfigError: As a start without a tunnel, and if no setting says who may come in.
        InputError: No tunnel program is installed.
    """
    bridge_target(loaded, loaded.settings.port)
    programs = find_program(name, os.environ)
    reader = SettingsReader(read_again)

    def tunnel_to(port: int) -> Coroutine[Any, Any, None]:
        return keep_open(programs, reader.lead_to(port), console)

    beside = Beside(tunnel_to)
    try:
        return await lifecycle.run(loaded, console, beside.start, read_again, Deadline().within)
    finally:
        await beside.stop()


class SettingsReader:
    """Reads a bridge's settings again in a thread: the event loop carries calls.

    A network folder may not answer for hours. One thread at a time waits for it. If the answer is late, the
    next start of the tunnel uses it.

    Args:
        read: Reads them.
    """

    def __init__(self, read: Callable[[], Loaded]) -> None:
        self._read = read
        self._reading: asyncio.Task[Loaded] | None = None

    def lead_to(self, port: int) -> Callable[[], Awaitable[Target]]:
        """Gives the bridge's port with one of its secrets, as `bridge_target`, from settings read again."""

        async def found() -> Target:
            return bridge_target(await self.again(), port)

        return found

    async def again(self) -> Loaded:
        """The settings of now.

        Raises:
            ConfigError: They cannot be used.
            TunnelFailed: They could not be read within READ_TIMEOUT_S.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(in_thread(self._read), name="settings for the tunnel")
        done, _ = await asyncio.wait([self._reading], timeout=READ_TIMEOUT_S)
        if not done:
            raise TunnelFailed(f"reading the settings took longer than {READ_TIMEOUT_S:g} s")
        (reading,), self._reading = done, None
        return reading.result()


class Beside:
    """A tunnel beside a server of this process: begins when the server is ready.

    Args:
        tunnel_to: Keeps a tunnel to a port open.
    """

    def __init__(self, tunnel_to: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        self._tunnel_to = tunnel_to
        self._task: asyncio.Task[None] | None = None

    def start(self, url: str) -> None:
        """Opens the tunnel to the port of a server's URL."""
        self._task = asyncio.create_task(self._run(urlsplit(url).port or 0), name="tunnel")

    async def stop(self) -> None:
        """Closes the tunnel."""
        if self._task is not None:
            await periodic.stop([self._task])

    async def _run(self, port: int) -> None:
        try:
            await self._tunnel_to(port)
        except PxbridgeError as error:
            log.error("no tunnel: %s", error)
        except Exception:
            log.exception("no tunnel: unexpected error")


async def keep_open(programs: Programs, lead_to: Callable[[], Awaitable[Target]], console: Console) -> None:
    """Keeps a tunnel open until it is cancelled.

    Args:
        programs: The tunnel program.
        lead_to: Gives the port and its secret.
        console: Where the line to paste is printed.

    Raises:
        InputError: As `Supervisor.run`.
        HandshakeRefused: The same.
    """

    async def start(program: Program) -> child.Child:
        return await child.start(program.command, os.environ, program.read, programs.install)

    await Supervisor(programs, start, lead_to, RealChecks, View(programs.name, console)).run()


class View:
    """Prints the line to paste, and logs what becomes of the tunnel.

    The line holds a secret, so it is printed in whole on a terminal only. Other output is often kept, as a
    journal is.

    Args:
        program: The tunnel program's name.
        console: Where to print.
    """

    def __init__(self, program: str, console: Console) -> None:
        self._program = program
        self._console = console

    def opened(self, target: Target, address: str, before: str | None) -> None:
        """Prints the line."""
        masked = target.masked_url(address)
        if before == address:
            log.info("the tunnel is open again at the same address: %s", masked)
            return
        log.info("the tunnel is open: %s was dialled from here, and the port answered", masked)
        if before is not None:
            log.warning(
                "the tunnel's address has CHANGED, calls to %s do not arrive any more: paste the new URL",
                before,
            )
        if address.startswith("ws:"):
            log.warning("this tunnel has no TLS: passwords and voices cross the network unencrypted")
        if in_journal(os.environ):
            return  # the lines above are there already
        changed = "" if before is None else " (the address has changed)"
        lines = ["", f"  {target.what}{changed}", f"  {target.url(address)}"]
        if not self._console.is_terminal:
            lines[2:] = [f"  {masked}", "  (the secret is in the settings; a terminal shows the whole URL)"]
        self._console.print("\n".join([*lines, ""]), markup=False, soft_wrap=True)

    def failed(self, why: str, again_in_s: float) -> None:
        """Logs why, and when it is tried again."""
        log.warning("the tunnel is down: %s; %s starts again in %g s", why, self._program, again_in_s)


def find_program(name: str, environ: Mapping[str, str]) -> Programs:
    """The tunnel program of this name, or the first one that is installed.

    Raises:
        InputError: It is not installed.
    """
    kinds: dict[str, Programs] = {
        "cloudflared": Cloudflared(),
        "ngrok": Ngrok(),
        "bore": Bore(environ),
    }
    if name != ANY:
        if shutil.which(name, path=environ.get("PATH")) is None:
            raise InputError(f"{name} is not installed: {kinds[name].install}")
        return kinds[name]
    for each in PROGRAMS:
        if shutil.which(each, path=environ.get("PATH")) is not None:
            return kinds[each]
    first = kinds[PROGRAMS[0]]
    raise InputError(f"none of {', '.join(PROGRAMS)} is installed; {first.name} is at {first.install}")


def bridge_target(loaded: Loaded, port: int) -> Target:
    """The bridge's port with one of its secrets: a password if there is one, else a new token.

    Args:
        loaded: The bridge's settings.
        port: The port that it listens on.

    Raises:
        ConfigError: Nobody is asked for a secret, the port serves TLS itself, or it expects a header.
    """
    found = loaded.settings
    if found.tls_cert_file is not None:
        written, source = loaded.origins["tls_cert_file"]
        raise ConfigError(written, source, "does not go with a tunnel, which serves TLS itself; leave it out")
    if not found.credentials and not found.token_keys:
        raise _open_to_all(loaded)
    host = _here(found.host)
    address = parsed_address(host)
    if found.proxy_protocol and any(address in network for network in found.trusted_proxies if address):
        written, source = loaded.origins["proxy_protocol"]
        problem = f"does not go with a tunnel, which sends no header from {host}; leave one of the two out"
        raise ConfigError(written, source, problem)
    if found.credentials:
        return target.bridge(host, port, path=APPLET_PATH, login=found.credentials[0].get_secret_value())
    return target.bridge(host, port, path=APPLET_PATH, token=_token(found))


def _open_to_all(loaded: Loaded) -> ConfigError:
    name = "allow_anonymous" if loaded.settings.allow_anonymous else "credentials"
    written, source = loaded.origins.get(name, (settings.variable("credentials"), "default"))
    problem = (
        "a tunnel lets the whole internet call, and every call comes from this machine's own address; "
        f"set {settings.variable('credentials')} or {settings.variable('token_keys')} "
        "(`pxbridge init` makes them)"
    )
    return ConfigError(written, source, problem)


def _token(found: Settings) -> str:
    keys = [key.get_secret_value().encode() for key in found.token_keys]
    return Signer(keys, time.time).make(Scope.PORT, TOKEN_TTL_S)


def engine_target(host: str, port: int, environ: Mapping[str, str]) -> Callable[[], Awaitable[Target]]:
    """Gives the engine's port with its token.

    Raises:
        ConfigError: There is no token, or it cannot stand in a header.
    """
    token = token_in(environ) if environ.get(TOKEN_VARIABLE) else None
    if token is None:
        raise ConfigError(
            TOKEN_VARIABLE,
            "environment",
            "is not set; a tunnel lets the whole internet in, so the engine needs a token "
            "(for example from `openssl rand -hex 32`)",
        )
    engine = target.engine(_here(host), port, path=CHAT_PATH, token=token)

    async def found() -> Target:
        return engine

    return found


def _here(host: str) -> str:
    """The address by which this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else settings.url_host(host)  # noqa: S104


def _without_token(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the engine's variable, which is no setting of the bridge."""
    return {name: value for name, value in environ.items() if name != TOKEN_VARIABLE}


async def _until_signalled(work: Coroutine[Any, Any, None]) -> int:
    """Runs `work` until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not task.cancelled():
        task.result()
    return 0
