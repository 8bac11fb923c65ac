"""The text that a bridge prints when it is ready: its addresses and engines, and commands to try next."""

from __future__ import annotations

import sys
from pathlib import Path

import pxbridge
from pxbridge.engines.address import EngineAddress
from pxbridge.settings import Settings

EXAMPLE_WAV = Path("tests/vectors/speech_8k.wav")
"""Speech for a first call, if the process runs in a checkout."""


def welcome(settings: Settings, url: str, console_url: str | None) -> str:
    """The text to print.

    Args:
        settings: The settings in force.
        url: What a carrier dials.
        console_url: Where the console is; None if there is none.
    """
    command = own_command()
    wav = EXAMPLE_WAV if EXAMPLE_WAV.exists() else "YOUR.wav"
    # `pxbridge call` dials the default address if no other is given.
    is_default = (settings.host, settings.port) == (Settings().host, Settings().port)
    url_to_try = url
    if settings.credentials:
        is_default, url_to_try = False, url.replace("://", "://USER:PASSWORD@")
    elif settings.token_keys:
        is_default, url_to_try = False, url + "/t/TOKEN"
    where = "" if is_default else f" --url {url_to_try}"
    call = f"{command} call{where} --wav {wav} --out heard.wav"
    lines = ["", f"pxbridge {pxbridge.__version__} takes calls at {url}", ""]
    if settings.engines:
        lines += [f"  engine       {EngineAddress(engine)}" for engine in settings.engines]
        lines += [f"  try it       {call}"]
    else:
        lines += [
            "  engine       the rehearsal engine: no model; it repeats what it heard",
            f"  try it       {call}",
            f"  PersonaPlex  PXBRIDGE_ENGINES=wss://HOST:8998/api/chat {command}",
        ]
    if console_url is not None:
        lines += [f"  talk to it   {console_url}/"]
        lines += [f"  watch it     {console_url}/live, /metrics and /api/calls"]
    lines += ["  stop         Ctrl-C", ""]
    return "\n".join(lines)


def own_command() -> str:
    """How to run this program again from this folder, in a shell without the virtual environment."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        return f"{python.relative_to(Path.cwd())} -m pxbridge"
    return "pxbridge"
