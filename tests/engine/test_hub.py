"""Files come from Hugging Face, and what stands in the way of one is told so that a person can mend it.

A small server stands in for the hub: it answers as huggingface.co does, with redirects for large files and
renamed repositories, and with the headers that tell why something is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.engine.tiny import FOLDER, LM_FILE, LM_JSON, MIMI_FILE, MIMI_JSON, TOKENIZER_FILE

from pxbridge.wav import write_wav

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO, RENAMED, OPEN = "nvidia/personaplex-7b-v1", "someone/old-name", "someone/open"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = LM_FILE.read_bytes()
FILES = {
    "model.safetensors": LARGE,
    "tokenizer-e351c8d8-checkpoint125.safetensors": MIMI_FILE.read_bytes(),
    "tokenizer_spm_32k_3.model": TOKENIZER_FILE.read_bytes(),
}
GOOD, NOT_ACCEPTED = "hf_accepted", "hf_not_accepted"

DOWNLOAD = """
import sys, time
time.sleep = lambda _: None  # between the hub's own retries
from pxbridge.errors import InputError
from pxbridge.personaplex.hub import download
try:
    print(download(*sys.argv[1:]))
except InputError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """What of the hub a download needs."""

    protocol_version = "HTTP/1.1"
    cuts_left = 0

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[0] == "cdn":
            self.give(FILES[parts[1]])
            return
        repo, name = "/".join(parts[:2]), parts[-1]
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in ("", GOOD, NOT_ACCEPTED):
            self.refuse(401, None, "Invalid credentials in Authorization header")
        elif repo == RENAMED:
            self.redirect(self.path.replace(RENAMED, OPEN), status=307)
        elif repo not in (REPO, OPEN):
            self.refuse(404 if token else 401, "RepoNotFound" if token else None, "Repository not found")
        elif repo == REPO and not token:
            self.refuse(401, "GatedRepo", "Access to model is restricted. You must be authenticated.")
        elif repo == REPO and token == NOT_ACCEPTED:
            self.refuse(403, "GatedRepo", "Access to model is restricted and you are not in the list.")
        elif name not in FILES:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif FILES[name] is LARGE:
            self.redirect(f"/cdn/{name}")
        else:
            self.give(FILES[name])

    def describe(self, name: str, linked: bool) -> None:
        content = FILES[name]
        mark = "X-Linked-" if linked else ""
        self.send_header(f"{mark}ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if linked:
            self.send_header("X-Linked-Size", str(len(content)))

    def refuse(self, status: int, code: str | None, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, to: str, status: int = 302) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 302:
            self.describe(self.path.rpartition("/")[2], linked=True)
            to = f"http://{self.headers['host']}{to}"
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give(self, content: bytes) -> None:
        start = 0
        if (asked := self.headers.get("range")) and self.command == "GET":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.describe(self.path.rpartition("/")[2], linked=False)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if content is LARGE and Hub.cuts_left:
            Hub.cuts_left -= 1
            self.wfile.write(content[start : start + 300_000])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])


def voices() -> bytes:
    """`voices.tgz` with one voice."""
    packed, voice = io.BytesIO(), (FOLDER / "voice-0.pt").read_bytes()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("voices/NATF0.pt")
        member.size = len(voice)
        archive.addfile(member, io.BytesIO(voice))
    return packed.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(
    words: list[str], endpoint: str, cache: Path, token: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    if token is not None:
        environ["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), **environ},
    )


def download(
    endpoint: str, cache: Path, repo: str, name: str, token: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return run(["-c", DOWNLOAD, repo, name], endpoint, cache, token, **environ)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("refused: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def test_a_conversation_needs_nothing_but_a_token(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "voices.tgz", voices())
    write_wav(tmp_path / "in.wav", np.zeros(3 * 1920, np.int16), 24_000)
    words = ["-m", "pxbridge", "engine", "offline", "--device", "cpu", "--greedy", "--voice-prompt", "NATF0"]
    for option, value in {
        "--text-prompt": "Be kind.",
        "--lm-config": LM_JSON,
        "--mimi-config": MIMI_JSON,
        "--input-wav": tmp_path / "in.wav",
        "--output-wav": tmp_path / "out.wav",
        "--output-text": tmp_path / "out.json",
    }.items():
        words += [option, str(value)]
    refused_without = run(words, endpoint, tmp_path)
    assert refused_without.returncode == 2
    assert refused_without.stderr.startswith(
        "pxbridge: nvidia/personaplex-7b-v1 is gated: accept its licence"
    )
    assert refused_without.stderr.count("\n") == 1
    result = run(words, endpoint, tmp_path, GOOD)
    assert result.returncode == 0, result.stderr
    assert "licensed under the NVIDIA Open Model License" in result.stdout
    assert len(json.loads((tmp_path / "out.json").read_text())) == 3


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_downloaded_with_the_token_and_then_kept(endpoint: str, tmp_path: Path, name: str) -> None:
    result = download(endpoint, tmp_path, REPO, name, token=GOOD)
    assert result.returncode == 0, result.stderr
    path = result.stdout.strip()
    with open(path, "rb") as file:  # noqa: PTH123
        assert file.read() == FILES[name]
    again = download("http://127.0.0.1:9", tmp_path, REPO, name, HF_HUB_OFFLINE="1")
    assert again.stdout.strip() == path


def test_a_renamed_repository_is_followed(endpoint: str, tmp_path: Path) -> None:
    result = download(endpoint, tmp_path, RENAMED, "tokenizer_spm_32k_3.model")
    assert result.returncode == 0, result.stderr


def test_a_download_that_breaks_off_is_taken_up_where_it_was(endpoint: str, tmp_path: Path) -> None:
    Hub.cuts_left = 1
    result = download(endpoint, tmp_path, OPEN, "model.safetensors")
    assert (result.returncode, Hub.cuts_left) == (0, 0), result.stderr
    with open(result.stdout.strip(), "rb") as file:  # noqa: PTH123
        assert file.read() == LARGE


def test_a_gated_repository_names_where_its_licence_is_accepted(endpoint: str, tmp_path: Path) -> None:
    without = refused(download(endpoint, tmp_path, REPO, "model.safetensors"))
    assert "nvidia/personaplex-7b-v1 is gated: accept its licence at " in without
    assert "https://huggingface.co/nvidia/personaplex-7b-v1, and put a token of the same account" in without
    not_accepted = refused(download(endpoint, tmp_path, REPO, "model.safetensors", token=NOT_ACCEPTED))
    assert "is gated: accept its licence at " in not_accepted
    assert "into HF_TOKEN (the present one is not accepted)" in not_accepted


def test_a_wrong_token_is_told(endpoint: str, tmp_path: Path) -> None:
    line = refused(download(endpoint, tmp_path, REPO, "model.safetensors", token="hf_mistyped"))
    assert "HF_TOKEN (the present one is not accepted)" in line


@pytest.mark.parametrize("token", [None, GOOD])
def test_a_repository_that_is_not_there_is_told(endpoint: str, tmp_path: Path, token: str | None) -> None:
    line = refused(download(endpoint, tmp_path, "nvidia/nothing", "model.safetensors", token=token))
    assert "nvidia/nothing: there is no such repository, or it may not be seen" in line


def test_a_file_that_a_repository_lacks_is_named(endpoint: str, tmp_path: Path) -> None:
    line = refused(download(endpoint, tmp_path, OPEN, "voices.tgz"))
    assert "someone/open: there is no voices.tgz in it" in line


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    line = refused(download("http://127.0.0.1:9", tmp_path, OPEN, "voices.tgz"))
    assert "voices.tgz is not on this machine, and http://127.0.0.1:9 cannot be reached" in line


def test_offline_nothing_is_asked_for(endpoint: str, tmp_path: Path) -> None:
    line = refused(download(endpoint, tmp_path, OPEN, "model.safetensors", HF_HUB_OFFLINE="1"))
    assert "model.safetensors is not on this machine, and HF_HUB_OFFLINE forbids" in line


def test_what_is_no_name_of_a_repository_is_told(endpoint: str, tmp_path: Path) -> None:
    line = refused(download(endpoint, tmp_path, "a/b/c", "model.safetensors"))
    assert "--hf-repo a/b/c: no name of a repository (owner/name)" in line
