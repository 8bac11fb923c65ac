"""Ports that servers of tests and benches get: nobody else takes them before the server starts."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from pxbridge.commands.processes import free_port

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_each_port_is_given_once_and_is_no_port_that_the_system_gives_away() -> None:
    first_given_away = int(EPHEMERAL.read_text(encoding="ascii").split()[0])
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert max(ports) < first_given_away


def test_a_port_that_somebody_listens_at_is_not_given() -> None:
    with contextlib.ExitStack() as stack:
        taken = {free_port() for _ in range(20)}
        for port in taken:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        given = {free_port() for _ in range(12_768)}  # all of them come by once
        assert len(given) > 12_000
        assert not taken & given
