"""`pxbridge call`: places a simulated phone call, shows its course, and says whether it was a good one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import signal
import ssl
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from pxbridge.audio import OggOpusReader
from pxbridge.chat_wire import ENGINE_HZ
from pxbridge.commands import terminal
from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.commands.call_timeline import Timeline
from pxbridge.commands.output import require_call_url, require_writable
from pxbridge.commands.report import EXIT_BAD, EXIT_BROKEN, EXIT_SILENT, make_report, print_report
from pxbridge.commands.terminal import say
from pxbridge.errors import CallFailed, CallRefused, InputError
from pxbridge.simulation.network import GRAMMAR, parse_network
from pxbridge.simulation.phone import (
    SPELLINGS,
    Clock,
    Line,
    Mood,
    Phone,
    Script,
    place_call,
    shown,
)
from pxbridge.wav import Sound, read_wav, resample, to_pcm, write_wav

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from rich.console import Console

    from pxbridge.commands.call_timeline import Moment
    from pxbridge.commands.report import Report

DEFAULT_URL = "ws://127.0.0.1:5050/exotel"

EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4

GREETING_LONGEST_S = 20.0
LISTEN_LONGEST_S = 40.0
REFRESH_S = 0.1
FLOOR_DBFS = -60.0
BAR_WIDTH = 24
SHORTEST_CHUNK_MS, LONGEST_CHUNK_MS = 1.0, 2000.0
"""Two seconds at 24 kHz are 96 kB; Exotel's largest payload is 100 kB."""

_EPILOG = f"""\
Without --wav, the caller says a short sentence. Without --speak-at, the caller waits for the end of the
greeting, for {GREETING_LONGEST_S:g} s at most. Without --seconds, the caller hangs up when the agent has
answered and is silent, and {LISTEN_LONGEST_S:g} s after the caller's words at the latest.

networks: {GRAMMAR.replace(" (", chr(10) + "          (")}
spellings: {", ".join(SPELLINGS)}

examples:
  pxbridge call --wav question.wav --out heard.wav
  pxbridge call --speak-at 0 --chunk-ms 20 --network "stall 1.5s at 4s; jitter 40ms" --plot call.png

exit status: 0 a good call, 2 wrong argument, {EXIT_UNREACHABLE} no connection, {EXIT_REFUSED} call refused,
{EXIT_BROKEN} call broken off, {EXIT_SILENT} no agent was heard, {EXIT_BAD} a bad call for another reason
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--url", default=DEFAULT_URL, help="where to call (default: %(default)s)")
    parser.add_argument("--wav", type=Path, metavar="FILE", help="what the caller says: any WAV file")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write what the caller heard to this WAV file"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw a plot of the call to this file (.png, .svg, .pdf)"
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=8000,
        choices=(8000, 16000, 24000),
        help="sample rate of the line (default: 8000)",
    )
    parser.add_argument(
        "--chunk-ms",
        type=float,
        default=100.0,
        metavar="MS",
        help="duration of the audio in one message (default: 100; some Exotel lines send 20)",
    )
    parser.add_argument(
        "--speak-at", type=float, metavar="S", help="speak at this time, even during the greeting"
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="hang up at this time, not earlier or later"
    )
    parser.add_argument(
        "--network", default="", metavar="TEXT", help='simulate a bad network, e.g. "stall 1.5s at 8s"'
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the network's random numbers (default: 0)"
    )
    parser.add_argument(
        "--press",
        action="append",
        default=[],
        metavar="KEY@S",
        help="press a key at a time, e.g. 5@3.5; may be repeated",
    )
    parser.add_argument(
        "--spelling",
        default="documented",
        choices=sorted(SPELLINGS),
        metavar="NAME",
        help="how Exotel's events are written (default: %(default)s); the names are below",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="for wss://: trust this certificate (PEM file)"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="report all that explains the figures, too"
    )
    parser.add_argument(
        "--json", action="store_true", help="print nothing but the verdict and the figures, as JSON"
    )


async def run(args: argparse.Namespace, console: Console, clock: Clock | None = None) -> int:
    """Places the call; returns the exit status. Tests pass a clock of their own.

    Raises:
        InputError: A file or an argument cannot be used.
    """
    require_call_url("--url", args.url)
    phone = _phone(args)
    tls = _tls(args.ca)
    draw = _drawing(args.plot)
    require_writable("--out", args.out)
    require_writable("--plot", args.plot)
    progress = terminal.console(file=io.StringIO()) if args.json else console
    say(progress, f"calling {shown(args.url)} …")
    telemetry = CallTelemetry(phone.line.rate_hz)
    view = View(phone, telemetry, progress)
    try:
        with _hanging_up_on_interrupt(phone):
            await _talk(args.url, phone, tls, clock or Clock(), view)
    except CallFailed as error:
        status = EXIT_REFUSED if isinstance(error, CallRefused) else EXIT_UNREACHABLE
        text = f"{error}{_advice(args.url, error)}"
        if args.json:
            failed = {
                "url": shown(args.url),
                "good": False,
                "verdict": f"a bad call: {text}",
                "problems": [text],
                "status": status,
            }
            console.print(json.dumps(failed, indent=2), markup=False, soft_wrap=True)
        else:
            say(terminal.console(stderr=True), f"pxbridge call: {text}")
        return status
    report = make_report(phone, telemetry, args.url)
    if args.json:
        console.print(json.dumps(report.as_json(), indent=2), markup=False, soft_wrap=True)
    else:
        print_report(report, console, details=args.verbose)
    if args.out is not None:
        write_wav(args.out, phone.player.heard, phone.line.rate_hz)
        say(progress, f"heard: {args.out}")
    if draw is not None:
        draw(report, args.plot)
        say(progress, f"plot: {args.plot}")
    return report.status


def _phone(args: argparse.Namespace) -> Phone:
    if not SHORTEST_CHUNK_MS <= args.chunk_ms <= LONGEST_CHUNK_MS:
        raise InputError(
            f"--chunk-ms {args.chunk_ms:g} is not between {SHORTEST_CHUNK_MS:g} and {LONGEST_CHUNK_MS:g}"
        )
    for name in ("speak_at", "seconds"):
        given_s = getattr(args, name)
        if given_s is not None and not 0 <= given_s < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {given_s:g} is not a time in seconds, from 0 on")
    sound = _shipped() if args.wav is None else read_wav(args.wav)
    words = to_pcm(resample(sound.samples, sound.rate_hz, args.rate))
    script = Script(
        words,
        speak_at_s=args.speak_at,
        greeting_longest_s=GREETING_LONGEST_S,
        listen_longest_s=LISTEN_LONGEST_S,
        hang_up_at_s=args.seconds,
    )
    line = Line(
        rate_hz=args.rate,
        chunk_ms=args.chunk_ms,
        spelling=SPELLINGS[args.spelling],
        dtmf=tuple(_key_press(text) for text in args.press),
    )
    return Phone(script, line, parse_network(args.network), args.seed)


def _shipped() -> Sound:
    """The sentence that the caller says without `--wav`."""
    data = resources.files("pxbridge").joinpath("assets/caller.ogg").read_bytes()
    return Sound(OggOpusReader(ENGINE_HZ, trim=True).read(data), ENGINE_HZ)


def _key_press(text: str) -> tuple[float, str]:
    key, _, at = text.partition("@")
    with contextlib.suppress(ValueError):
        if len(key) == 1 and key in "0123456789*#" and 0 <= float(at) < math.inf:
            return float(at), key
    raise InputError(f"--press {text} is not a key (0-9, * or #) and a time, like 5@3.5")


def _tls(ca: Path | None) -> ssl.SSLContext | None:
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise InputError(f"--ca {ca}: it holds no certificate in PEM form") from error
    except OSError as error:
        raise InputError(f"--ca {ca}: {error.strerror or error}") from error


def _drawing(file: Path | None) -> Callable[[Report, Path], None] | None:
    """The function that draws the plot. It is imported before the call, so that an error comes early."""
    if file is None:
        return None
    from pxbridge.commands.plot import draw_call, require_drawable

    require_drawable(file)
    return draw_call


def _advice(url: str, error: CallFailed) -> str:
    """What to do about a call that could not be placed."""
    if isinstance(error, CallRefused):
        return _REFUSED.get(error.status, "")
    # A server whose TLS fails is running.
    answers = isinstance(error.__cause__, TimeoutError | ssl.SSLError)
    refused = isinstance(error.__cause__, OSError) and not answers
    if refused and urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        return "; is the server running? `pxbridge` in another terminal starts it"
    return ""


_REFUSED = {
    401: "; the URL needs the right credentials: wss://USER:PASSWORD@HOST/exotel",
    403: "; a token in the URL is wrong or has expired (`pxbridge token` makes one), "
    "or this address may not call",
}


async def _talk(url: str, phone: Phone, tls: ssl.SSLContext | None, clock: Clock, view: View) -> None:
    """Runs the call, with the view beside it."""
    showing = asyncio.create_task(view.show())
    try:
        await place_call(url, phone, tls=tls, clock=clock, observe=view.observe)
    finally:
        showing.cancel()
        await asyncio.wait([showing])
    if not showing.cancelled():
        showing.result()  # a fault of the view is raised here, and not kept by a task that nobody reads
    view.print_rest()


@contextlib.contextmanager
def _hanging_up_on_interrupt(phone: Phone) -> Iterator[None]:
    """The first Ctrl-C hangs up, and a report follows; the second one stops the program."""
    loop = asyncio.get_running_loop()

    def hang_up() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        phone.caller.leave()

    loop.add_signal_handler(signal.SIGINT, hang_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class View:
    """Shows a live call: what happens, line by line, and on a terminal the levels of both sides."""

    def __init__(self, phone: Phone, telemetry: CallTelemetry, console: Console) -> None:
        self._phone = phone
        self._telemetry = telemetry
        self._timeline = Timeline(phone, telemetry)
        self._console = console

    def observe(self, report: Mapping[str, Any]) -> None:
        """Takes one report of the bridge on the call."""
        self._telemetry.add(report)

    async def show(self) -> None:
        """Shows the call until cancelled."""
        with contextlib.ExitStack() as stack:
            live = Live(console=self._console, transient=True, auto_refresh=False)
            while True:
                self._print(self._timeline.news())
                if self._console.is_terminal and self._phone.chunks_sent:
                    if not live.is_started:
                        stack.enter_context(live)
                    live.update(self._levels(), refresh=True)
                await asyncio.sleep(REFRESH_S)

    def print_rest(self) -> None:
        """Prints what is left when the call is over."""
        self._print(self._timeline.rest())

    def _print(self, moments: Iterable[Moment]) -> None:
        for at_s, text in moments:
            say(self._console, text, f"{at_s:6.1f} s  ")

    def _levels(self) -> RenderableType:
        phone = self._phone
        depth = f"   {phone.player.depth_s * 1e3:4.0f} ms queued"
        lines = [
            Text.assemble(
                f"{phone.spoken_s:6.1f} s  you    ", _bar(phone.said_dbfs, "cyan"), f"   {_mood(phone)}"
            ),
            Text.assemble("          agent  ", _bar(phone.player.heard_dbfs, "yellow"), depth),
        ]
        if words := self._timeline.unfinished:
            lines.append(Text(f"          {words[-self._console.width + 12 :]}", style="italic"))
        return Group(*lines)


def _mood(phone: Phone) -> str:
    return "" if phone.caller.mood is Mood.GONE else phone.caller.mood.value


def _bar(dbfs: float, colour: str) -> Text:
    filled = round(BAR_WIDTH * min(1.0, max(0.0, 1.0 - dbfs / FLOOR_DBFS)))
    return Text.assemble(("█" * filled, colour), ("·" * (BAR_WIDTH - filled), "dim"))
