"""The web client's files, and what bounds its pages."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from pxbridge.console.server import Console, serve
from pxbridge.console.static_files import MAX_BYTES, policy, read_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PAGE = b"<!doctype html><title>pxbridge</title>"
SCRIPT = b"export const x = 1;\n" * 200


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(PAGE)
    (folder / "favicon.svg").write_bytes(b"<svg/>")
    (folder / "assets" / "index-Ab12.js").write_bytes(SCRIPT)
    (folder / "assets" / "index-Ab12.js.map").write_bytes(b"{}")
    (folder / "assets" / "opus-Cd34.wasm").write_bytes(b"\0asm" + bytes(2000))
    (folder / "assets" / "engine.worker-Ef56.js").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "assets" / "link.js").symlink_to(tmp_path / "secret")
    return folder


@asynccontextmanager
async def console(folder: Path, *logins: str) -> AsyncIterator[aiohttp.ClientSession]:
    made = Console(
        lambda: b"",
        lambda: {"live": [], "recent": []},
        tuple,
        lambda *_: "",
        logins,
        files=read_files(folder),
    )
    async with (
        serve(made, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", auto_decompress=False) as session,
    ):
        yield session


async def test_every_page_is_the_client_and_needs_no_login(built: Path) -> None:
    async with console(built, "asha:correct-horse-battery") as session:
        for path in ("/", "/talk", "/live", "/login"):
            answer = await session.get(path)
            assert (answer.status, await answer.read()) == (200, PAGE), path
            assert answer.content_type == "text/html"
            assert answer.headers["Cache-Control"] == "no-cache"
        assert (await session.get("/api/calls")).status == 401


async def test_an_unknown_address_is_the_client_for_people_and_404_for_all(built: Path) -> None:
    html = {"Accept": "text/html,application/xhtml+xml"}
    async with console(built) as session:
        answer = await session.get("/nowhere", headers=html)
        assert (answer.status, await answer.read()) == (404, PAGE)
        for path, headers in (
            ("/nowhere", {}),
            ("/api/nowhere", html),
            ("/assets/gone-1.js", html),
            ("/assets/index-Ab12.js.map", {}),
            ("/assets/link.js", {}),
            ("/../secret", {}),
        ):
            answer = await session.get(path, headers=headers)
            assert answer.status == 404, path
            assert PAGE not in await answer.read()


async def test_hashed_files_are_kept_for_good_and_come_compressed(built: Path) -> None:
    async with console(built) as session:
        answer = await session.get("/assets/index-Ab12.js", headers={"Accept-Encoding": "gzip, br"})
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Type"].startswith("text/javascript")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await answer.read()) == SCRIPT
        answer = await session.get("/assets/index-Ab12.js", headers={"Accept-Encoding": "identity"})
        assert await answer.read() == SCRIPT
        answer = await session.get("/assets/opus-Cd34.wasm")
        assert answer.content_type == "application/wasm"
        answer = await session.get("/favicon.svg")
        assert (answer.content_type, answer.headers["Cache-Control"]) == ("image/svg+xml", "no-cache")


async def test_a_page_that_has_not_changed_is_not_sent_again(built: Path) -> None:
    async with console(built) as session:
        answer = await session.get("/talk")
        again = await session.get("/talk", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b"")


async def test_without_a_build_the_page_says_so(tmp_path: Path) -> None:
    async with console(tmp_path) as session:
        answer = await session.get("/talk")
        assert answer.status == 503
        assert "make client" in await answer.text()
        assert (await session.get("/livez")).status == 200


async def test_every_answer_bounds_what_a_page_may_do(built: Path) -> None:
    async with console(built) as session:
        for path in ("/", "/talk", "/assets/index-Ab12.js", "/api/calls", "/metrics", "/nowhere", "/livez"):
            headers = (await session.get(path)).headers
            policy_there = headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy_there and "object-src 'none'" in policy_there
            assert "unsafe-inline" not in policy_there and "'unsafe-eval'" not in policy_there
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Permissions-Policy"] == "microphone=(self), camera=(), geolocation=()"


def test_only_the_talk_page_and_its_worker_compile_webassembly_and_only_on_request_leave_the_origin() -> None:
    worker = "/assets/engine.worker-Ef56.js"
    for path in ("/", "/live", "/login", "/assets/index-Ab12.js", "/talk/x", "/api/calls"):
        for query in ({}, {"engine": "wss://x"}):
            assert "wasm-unsafe-eval" not in policy(path, query)
            assert "connect-src 'self';" in policy(path, query)
    for path in ("/talk", worker):
        assert "script-src 'self' 'wasm-unsafe-eval';" in policy(path, {})
        assert "connect-src 'self';" in policy(path, {})
        assert "connect-src 'self' ws: wss: http: https:;" in policy(path, {"engine": "wss://x"})


def test_a_build_of_a_wrong_size_is_refused(built: Path) -> None:
    with (built / "assets" / "large.bin").open("wb") as large:
        large.truncate(MAX_BYTES + 1)
    with pytest.raises(OSError, match="larger than"):
        read_files(built)
