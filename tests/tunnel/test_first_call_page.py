"""docs/first-call.md, done: each command of the page is run as it stands there, or at least parsed.

The tunnel program is a stand-in on loopback, and there is no phone. Everything else is the page's own text.
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fault.processes import ROOT, until
from tests.tunnel.terminal import on_a_terminal

from pxbridge.commands.processes import free_port
from pxbridge.wav import read_wav

if TYPE_CHECKING:
    from tests.tunnel.conftest import Environment

PAGE: Final = ROOT / "docs" / "first-call.md"

PARSED: Final = {
    "python3 -m venv pxbridge-env": "tests/package does it",
    "pxbridge-env/bin/pip install pxbridge-*.whl": "tests/package does it",
    'export PATH="$PWD/pxbridge-env/bin:$PATH"': "the test has a PATH of its own",
    "export PXBRIDGE_ENGINE_TOKEN=$(openssl rand -hex 32)": "needs a GPU; tests/engine starts an engine",
    "pxbridge engine --tunnel": "the same; test_tunnel_command opens a tunnel to an engine",
}
"""Commands that are not run here, and why. tests/unit/test_docs parses each command of `pxbridge`."""


def page_commands() -> list[str]:
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    return [line for block in blocks for line in block.splitlines() if line]


async def test_the_page_leads_to_a_call(around: Environment, tmp_path: Path) -> None:
    todo = [line for line in page_commands() if line not in PARSED]
    environ = {name: value for name, value in around.variables.items() if not name.startswith("PXBRIDGE_")}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
        "PXBRIDGE_PORT": str(free_port()),
        "PXBRIDGE_CONSOLE_PORT": str(free_port()),
        "PXBRIDGE_STATE_DIR": str(tmp_path / "state"),
        "HOME": str(tmp_path),
    }

    async def finished(line: str, keys: str = "") -> str:
        async with on_a_terminal(line, environ=environ, folder=tmp_path, keys=keys) as terminal:
            assert await terminal.ends() == 0, terminal.printed
        return terminal.printed

    def next_command(beginning: str) -> str:
        line = todo.pop(0)
        assert line.startswith(beginning)
        return line

    await finished(next_command("pxbridge init"), keys="\n" * 20)
    assert "the bridge can start with these settings" in await finished(next_command("pxbridge check-config"))
    serve = next_command("pxbridge --config pxbridge.toml --tunnel")
    async with on_a_terminal(serve, environ=environ, folder=tmp_path) as bridge:
        await until(lambda: re.search(r"applet\s+wss://\S+\s", bridge.printed), "the URL is printed")
        url = re.findall(r"applet\s+(wss://\S+)\s", bridge.printed)[-1]
        assert re.fullmatch(r"wss://exotel:[0-9a-f]{32}@localhost:\d+/exotel", url)
        assert next_command("export URL=wss://exotel:PASSWORD@")
        environ["URL"] = url
        call = next_command('pxbridge call --url "$URL" --out heard.wav')
        told = await finished(f"{call} --seconds 3")  # else it takes 22 s
        assert "you hear a voice" in told
        assert read_wav(tmp_path / "heard.wav").samples.any()
        assert "completed" in await finished(next_command("pxbridge calls"))
        bridge.signal(signal.SIGTERM)
        assert await bridge.ends() == 0
    assert todo == []
    change_lines(tmp_path / "pxbridge.toml")
    settings = await finished("pxbridge check-config --config pxbridge.toml")
    assert "the bridge can start with these settings" in settings
    assert "wss://GPU-HOST:8998/api/chat" in settings


def change_lines(file: Path) -> None:
    """Does to the file of settings what the page says. Each line is there, perhaps as a comment."""
    (wanted,) = re.findall(r"(?ms)^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    text = file.read_text(encoding="utf-8")
    for line in wanted.splitlines():
        name = line.partition(" ")[0]
        there = rf"(?m)^{name} = .*$" if re.search(rf"(?m)^{name} = ", text) else rf"(?m)^# {name} = .*$"
        text, count = re.subn(there, line, text)
        assert count == 1, name
    file.write_text(text, encoding="utf-8")


def test_what_is_not_run_is_still_on_the_page() -> None:
    lines = page_commands()
    for line in PARSED:
        assert line in lines
        assert shlex.split(line)


def test_messages_that_the_page_explains_are_messages_of_the_program() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "python").rglob("*.py"))
    for words in (
        "is installed",
        "reaches no server of its network",
        "refused requests",
        "wrong credentials",
    ):
        assert words in source
