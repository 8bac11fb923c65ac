"""Checks the machine: ports, disk, clock and file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import ssl
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pxbridge
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.ops.descriptors import allowed
from pxbridge.rate_limit import parsed_address
from pxbridge.settings import flag, variable
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pxbridge.settings import Settings

DESCRIPTORS_PER_CALL: Final = 3
"""The phone, the engine and a recording."""
OTHER_DESCRIPTORS: Final = 100
"""Listening sockets, records, clients of the console, handshakes, warm engine sessions."""

MIN_FREE_BYTES: Final = 100 << 20
LOW_FREE_BYTES: Final = 1 << 30
"""An hour of recording, in stereo as WAV, takes 115 MB."""

_ANSWER_S: Final = 3.0
_TIME_ERROR: Final = 5
"""adjtimex(2) returns this (TIME_ERROR) if the clock is not synchronised."""
_TIMEX_BYTES: Final = 256
"""More than the size of struct timex. All zeros only reads the state."""


async def ports(settings: Settings) -> tuple[list[Finding], bool]:
    """Findings about the ports, and whether a bridge with these settings runs on them."""
    findings, bridge_runs = [], False
    for name, host, port in (
        ("port", settings.host, settings.port),
        ("console_port", settings.console_host, settings.console_port),
    ):
        if port == 0:
            continue
        problem = await asyncio.to_thread(_bind_problem, host, port)
        if problem is None:
            findings.append(good("port", f"{port} on {host} is free"))
        elif problem.errno == errno.EADDRINUSE:
            certificate = settings.tls_cert_file if name == "port" else settings.console_tls_cert_file
            preface = _preface(settings, host) if name == "port" else b""
            answer = await asyncio.to_thread(_livez, host, port, preface, tls=certificate is not None)
            if answer and (bridge_runs or name == "port"):
                bridge_runs = True
                findings.append(good("port", f"{port} on {host}: a bridge runs there and says {answer}"))
            else:
                by = "another bridge" if answer else "another program"
                findings.append(
                    wrong(
                        "port",
                        f"{port} on {host} is taken by {by}",
                        f"find it with `ss -ltnp sport = :{port}` and stop it, or set {variable(name)} to "
                        "another port",
                    )
                )
        elif problem.errno == errno.EACCES:
            findings.append(
                wrong(
                    "port",
                    f"{port} is for root only",
                    f"set {variable(name)} to a port from 1024 to 65535, or give the unit "
                    "AmbientCapabilities=CAP_NET_BIND_SERVICE",
                )
            )
        else:
            findings.append(
                wrong(
                    "port",
                    f"cannot listen on {host!r}: {problem.strerror or problem}",
                    f"set {flag(name.replace('port', 'host'))} to an address of this machine, or to 0.0.0.0 "
                    "for all of them (`ip address` lists them)",
                )
            )
    return findings, bridge_runs


def _bind_problem(host: str, port: int) -> OSError | None:
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as listening:
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen(1)
    except OSError as error:
        return error
    return None


def _dialled(host: str) -> str:
    """The address by which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared


def _preface(settings: Settings, host: str) -> bytes:
    """What the telephony port expects from this machine first: a header, if it is a trusted proxy."""
    address = parsed_address(_dialled(host))
    trusted = address is not None and any(address in network for network in settings.trusted_proxies)
    return b"PROXY UNKNOWN\r\n" if settings.proxy_protocol and trusted else b""


def _livez(host: str, port: int, preface: bytes, *, tls: bool) -> str | None:
    """The readiness of the pxbridge at an address, in its own words; None if there is no pxbridge."""
    host = _dialled(host)
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE  # it is this machine

    def ask(path: str) -> tuple[int, str]:
        with contextlib.closing(HTTPConnection(host, port)) as connection:
            connection.sock = socket.create_connection((host, port), _ANSWER_S)
            connection.sock.sendall(preface)
            if tls:
                connection.sock = unchecked.wrap_socket(connection.sock, server_hostname=host)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(1000).decode(errors="replace").strip()

    try:
        if ask("/livez") != (200, "alive"):
            return None
        return ask("/readyz")[1].replace("\n", "; ")
    except (OSError, HTTPException):  # another program
        return None


def descriptors(settings: Settings) -> Finding:
    """Whether the process may open as many files as `max_calls` calls need."""
    limit, calls = allowed(), counted(settings.max_calls, "call")
    needed = DESCRIPTORS_PER_CALL * settings.max_calls + OTHER_DESCRIPTORS
    if limit < needed:
        fit = max(1, (limit - OTHER_DESCRIPTORS) // DESCRIPTORS_PER_CALL)
        return wrong(
            "descriptors",
            f"{calls} cannot be held with {limit} open files; {needed} are needed",
            f"set LimitNOFILE={needed} in the unit, run `ulimit -n {needed}`, or set "
            f"{variable('max_calls')}={fit}",
        )
    return good("descriptors", f"{limit} open files allowed, {needed} needed for {calls}")


def disk(folder: Path) -> Iterator[Finding]:
    """Whether the state folder can be written, and how much space is left."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    fix = f"create {folder} for the user that runs pxbridge, or set {variable('state_dir')} to another folder"
    if not there.is_dir():
        yield wrong("disk", f"{there} is not a folder, so {folder} cannot be created", fix)
        return
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"pxbridge")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield wrong("disk", f"{there} cannot be written: {error.strerror or error}", fix)
        return
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        yield wrong(
            "disk",
            f"only {free >> 20} MB are free for {folder}",
            f"free some space, or set {variable('state_dir')} to a folder on another disk",
        )
    elif free < LOW_FREE_BYTES:
        yield note(
            "disk",
            f"only {free >> 20} MB are free for {folder}",
            "free some space: recordings take 115 MB an hour",
        )
    else:
        yield good("disk", f"{folder}: {free / (1 << 30):.0f} GB free")


def clock(now_s: float) -> Finding:
    """Whether the machine's clock is right. Tokens, certificates and records depend on it.

    Args:
        now_s: The time of the machine's clock, in seconds since 1970.
    """
    installed_s = Path(pxbridge.__file__).stat().st_mtime
    if now_s < installed_s:
        shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now_s))
        return wrong(
            "clock",
            f"the clock says {shown} UTC, which is before pxbridge was installed",
            "set the clock and run chrony or systemd-timesyncd (`timedatectl set-ntp true`)",
        )
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        state = -1
    if state == _TIME_ERROR:
        return note(
            "clock",
            "this machine's clock is not synchronised",
            "run chrony or systemd-timesyncd (`timedatectl set-ntp true`)",
        )
    if state < 0:
        return note("clock", "cannot see from here whether the clock is synchronised")
    return good("clock", "synchronised with a time server")
