"""Stands in for a tunnel program: run under the name `cloudflared` or `ngrok`, it answers as that one does.

It is a real tunnel on loopback: it listens on a port of its own, with TLS, and passes bytes on to the target.
What it does is in the environment: ``STAND_IN`` is a mode, ``STAND_IN_TLS`` a PEM file with certificate and
key, ``STAND_IN_LOG`` a file to which each start adds its process id and arguments.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

MODE = os.environ.get("STAND_IN", "ok")
STAMP = "2026-11-30T12:00:00Z"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(*lines: str) -> None:
    for line in lines:
        say(line)
    sys.exit(1)


async def forwarder(host: str, port: int) -> int:
    """Passes connections on; returns the port it listens on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.wait(
            [asyncio.create_task(copy(reader, far_writer)), asyncio.create_task(copy(far_reader, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        far_writer.close()
        writer.close()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["STAND_IN_TLS"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    found: int = server.sockets[0].getsockname()[1]
    return found


async def web(port: int, answers: dict[str, tuple[int, object]]) -> int:
    """An HTTP server of JSON with the content type text/plain, as cloudflared's is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        while (await reader.readline()).strip():
            pass
        status, told = answers.get(path, (404, {}))
        body = json.dumps(told).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    found: int = server.sockets[0].getsockname()[1]
    return found


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


async def cloudflared() -> None:
    target, metrics = urlsplit(argument("--url")), urlsplit("//" + argument("--metrics"))
    assert target.hostname and target.port and metrics.port
    match MODE:
        case "429":
            end(
                f"{STAMP} INF Requesting new quick Tunnel on trycloudflare.com...",
                "failed to request quick Tunnel: failed to unmarshal quick Tunnel: status_code="
                '"429 Too Many Requests"',
            )
        case "port taken":
            end(
                f"{STAMP} ERR Error opening metrics server listener",
                f"Error opening metrics server listener error=listen tcp {argument('--metrics')}: bind: "
                "address already in use",
            )
        case "unreachable" if "http2" not in sys.argv:
            say(f"{STAMP} ERR Failed to dial a quic connection: timeout: no recent network activity")
            answers: dict[str, tuple[int, object]] = {
                "/quicktunnel": (200, {"hostname": "localhost:9"}),
                "/ready": (503, {"readyConnections": 0}),
            }
        case "no address":
            answers = {"/quicktunnel": (200, {"hostname": ""}), "/ready": (503, {"readyConnections": 0})}
        case _:
            port = await forwarder(target.hostname, target.port)
            answers = {
                "/quicktunnel": (200, {"hostname": f"localhost:{port}"}),
                "/ready": (200, {"status": 200, "readyConnections": 1}),
            }
    await web(metrics.port, answers)
    await asyncio.get_running_loop().create_future()


async def ngrok() -> None:
    def log(**fields: object) -> None:
        say(json.dumps({"lvl": "info", "t": STAMP, **fields}))

    host, _, port = sys.argv[2].partition(":")
    token = os.environ.get("NGROK_AUTHTOKEN", "")
    match MODE:
        case "429":
            log(
                lvl="eror",
                msg="session closing",
                err="Your account is limited to 1 simultaneous session. ERR_NGROK_108",
            )
            end("ERROR:  authentication failed: Your account is limited. ERR_NGROK_108")
        case "wrong token":
            log(lvl="eror", msg="session closing", err=f"The authtoken is not valid. Your authtoken: {token}")
            end(f"ERROR:  Your authtoken: {token} ERR_NGROK_105")
    tunnels: list[object] = [
        {"public_url": "https://another.example", "config": {"addr": "http://127.0.0.1:1"}}
    ]
    if MODE == "unreachable":
        log(
            lvl="eror",
            msg="failed to reconnect session",
            err="dial tcp: lookup connect.ngrok-agent.com: no such host",
        )
    elif MODE != "no address":
        public = await forwarder(host, int(port))
        tunnels.append(
            {"public_url": f"https://localhost:{public}", "config": {"addr": f"http://{host}:{port}"}}
        )
    found = await web(0, {"/api/tunnels": (200, {"tunnels": tunnels})})
    log(msg="starting web service", obj="web", addr=f"127.0.0.1:{found}")
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with Path(os.environ["STAND_IN_LOG"]).open("a") as stream:
        stream.write(
            json.dumps({"pid": os.getpid(), "arguments": sys.argv[1:], "environ": dict(os.environ)}) + "\n"
        )
    asyncio.run({"cloudflared": cloudflared, "ngrok": ngrok}[Path(sys.argv[0]).name]())
