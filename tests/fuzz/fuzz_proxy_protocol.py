"""Fuzzes the reader of PROXY protocol headers with atheris (libFuzzer); not part of the suite.

Run it for ten minutes, from the repository's root::

    pip install --group fuzz
    python tests/fuzz/fuzz_proxy_protocol.py -max_total_time=600 -max_len=4200 CORPUS tests/fuzz/seeds/proxy

CORPUS is an empty folder of yours, where libFuzzer keeps what it finds; the seeds are only read.
"""

from __future__ import annotations

import ipaddress
import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["pxbridge.websocket.proxy_protocol"]):
    from pxbridge.websocket import proxy_protocol

READS_AS_BEGINNING = 40
"""Beginnings of the input that are read on their own; a header's first bytes decide."""


def read(data: bytes) -> None:
    """Whatever arrives is a header, none, or a short beginning; a header names an address or nobody."""
    found = outcome(data)
    if isinstance(found, proxy_protocol.Header):
        assert 0 < found.length <= min(len(data), proxy_protocol.MAX_BYTES)
        assert outcome(data[: found.length]) == found
        assert outcome(data[: found.length - 1]) is None
        if found.client is not None:
            assert str(ipaddress.ip_address(found.client.address)) == found.client.address
            assert 0 <= found.client.port <= 65535
    elif found is None:
        assert len(data) < proxy_protocol.MAX_BYTES
    # What is read does not depend on how it is cut: no beginning ends, or is refused, otherwise.
    for end in range(min(len(data), READS_AS_BEGINNING)):
        assert outcome(data[:end]) in (None, found)


def outcome(data: bytes) -> proxy_protocol.Header | str | None:
    """The header, None for a beginning, or "refused"."""
    try:
        return proxy_protocol.parse_header(data)
    except ValueError:
        return "refused"


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
