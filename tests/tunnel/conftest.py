"""Stand-ins for tunnel programs, on the PATH."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_IN = Path(__file__).with_name("stand_in.py")
LOGIN = "exotel:0123456789abcdef"


@dataclass
class Environment:
    """What a tunnel program finds around it."""

    variables: dict[str, str]
    log: Path

    def starts(self) -> list[dict[str, Any]]:
        """Each start of a stand-in so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def around(tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Stand-ins on the PATH, whose certificates are trusted."""
    for name in ("cloudflared", "ngrok"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\n" + STAND_IN.read_text())
        program.chmod(0o755)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "tls.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    variables = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "STAND_IN_TLS": str(tmp_path / "tls.pem"),
        "STAND_IN_LOG": str(tmp_path / "starts"),
        "NGROK_AUTHTOKEN": "2abcNGROKSECRET",
        "PXBRIDGE_CREDENTIALS": LOGIN,
    }
    yield Environment(variables, tmp_path / "starts")
