"""`pxbridge engine`: PersonaPlex served to many callers."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.commands import engine_options, tunnel_option
from pxbridge.commands.terminal import say
from pxbridge.errors import ConfigError, InputError
from pxbridge.settings import unquoted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from rich.console import Console

    from pxbridge.commands.tunnel import Beside
    from pxbridge.personaplex.model import Options as ModelOptions
    from pxbridge.personaplex.personas import FilePersonas
    from pxbridge.personaplex.serve import Loaded, Options, Prepared

log = logging.getLogger("pxbridge.engine")

TOKEN_VARIABLE = "PXBRIDGE_ENGINE_TOKEN"  # noqa: S105  a variable's name
LEAST_TOKEN_CHARS = 12
"""As for passwords: nobody can try as many over the network in a lifetime."""

_ORIGIN = re.compile(r"https?://[^/?#@\s]+/?", re.IGNORECASE)

EPILOG = f"""\
{TOKEN_VARIABLE} holds the token that clients show, as a bearer token or as the password of a Basic login.

examples:
  pxbridge engine                                 serve on this machine, to this machine
  {TOKEN_VARIABLE}=... pxbridge engine --host 0.0.0.0 --ssl certs
  {TOKEN_VARIABLE}=... pxbridge engine --tunnel   serve on this machine, to all who have the token
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    group = parser.add_argument_group("serving")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    group.add_argument("--port", type=int, default=8998, help="0 for any free one (default: %(default)s)")
    group.add_argument(
        "--ssl",
        type=Path,
        metavar="DIR",
        help="serve TLS with cert.pem and key.pem in DIR; they are made if neither is there",
    )
    group.add_argument(
        "--allow-anonymous", action="store_true", help="listen on a public address without a token"
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of https://OTHER.SERVER talk; * for any",
    )
    group.add_argument(
        "--slots",
        default="auto",
        metavar="N",
        help="conversations at once, or auto: as many as the device's memory holds (default: %(default)s)",
    )
    group.add_argument(
        "--queue",
        type=int,
        default=16,
        metavar="N",
        help="clients that may wait in line (default: %(default)s)",
    )
    group.add_argument(
        "--prefix-gb",
        type=float,
        metavar="GB",
        help="memory for prompts that are kept for the next call (default: a twentieth, at most 2)",
    )
    group.add_argument(
        "--drain-s",
        type=float,
        default=600.0,
        metavar="S",
        help="how long conversations may go on after SIGTERM (default: %(default)s)",
    )
    group.add_argument(
        "--static", default="none", metavar="DIR", help="serve a web client from DIR, or none (the default)"
    )
    group.add_argument(
        "--default-voice-prompt", metavar="NAME", help="the voice of clients that ask for none"
    )
    group.add_argument(
        "--default-text-prompt", metavar="TEXT", help="the text prompt of clients that send none"
    )
    group.add_argument(
        "--record-input",
        type=Path,
        metavar="DIR",
        help="write down what each conversation's model heard, for `pxbridge engine offline` to replay",
    )
    group.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="(default: %(default)s)",
    )
    group.add_argument("--log-format", choices=["auto", "human", "json"], default="auto", help="of log lines")
    group.add_argument(
        "--cpu-offload", action="store_true", help="for `pxbridge engine offline`: it cannot keep real time"
    )
    tunnel_option.add_option(group)
    group.add_argument(
        "--gradio-tunnel",
        dest="tunnel",
        action="store_const",
        const=tunnel_option.ANY,
        help="what NVIDIA's server calls --tunnel",
    )
    group.add_argument("--gradio-tunnel-token", metavar="TOKEN", help="says what to use instead")
    engine_options.add_checkpoint_arguments(parser)
    engine_options.add_size_arguments(parser)
    engine_options.add_model_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Serves until a signal ends it; returns the exit status.

    Raises:
        InputError: An argument or a file cannot be used.
        ConfigError: The same.
    """
    _refuse_what_is_not_there(args)
    from pxbridge.ops.logs import logging_to
    from pxbridge.personaplex.serve import prepare, serve

    beside = None if args.tunnel is None else tunnel_beside(args, console)
    prepared = prepare(_options(args))
    with logging_to(None, args.log_level, args.log_format):
        with _ended_by_signals():
            loaded = _load(args, prepared, console)
        if beside is None:
            return await serve(loaded, prepared)
        try:
            return await serve(loaded, prepared, beside.start)
        finally:
            await beside.stop()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGINT end the process at once while it downloads and reads a checkpoint.

    There is nothing to close, and a download goes on from where it was. Without this a container's first
    process would ignore SIGTERM, as the kernel has no default for it, and the event loop, which waits, the
    first Ctrl-C.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def tunnel_beside(args: argparse.Namespace, console: Console) -> Beside:
    """The tunnel to the engine, which begins when the engine is ready.

    Raises:
        ConfigError: The engine asks for no token.
        InputError: No tunnel program is installed.
    """
    from pxbridge.commands import tunnel

    tunnel.engine_target(args.host, args.port, os.environ)
    programs = tunnel.find_program(args.tunnel, os.environ)
    return tunnel.Beside(
        lambda port: tunnel.keep_open(programs, tunnel.engine_target(args.host, port, os.environ), console)
    )


def _refuse_what_is_not_there(args: argparse.Namespace) -> None:
    if args.cpu_offload:
        raise InputError(
            "--cpu-offload: it cannot keep real time, as 15 GB would cross the bus in each 80 ms; "
            "--weights int8 halves the weights, and `pxbridge engine offline --cpu-offload` works"
        )
    if args.gradio_tunnel_token:
        raise InputError(
            "--gradio-tunnel-token: there is no Gradio tunnel, and so no token for its name; --tunnel opens "
            f"a tunnel, and {TOKEN_VARIABLE} holds the secret that clients must show"
        )
    if args.tunnel is not None and args.ssl is not None:
        raise ConfigError(
            "--ssl", "command line", "does not go with --tunnel, which serves TLS; leave it out"
        )


def _options(args: argparse.Namespace) -> Options:
    from pxbridge.personaplex.query import Defaults
    from pxbridge.personaplex.serve import Options
    from pxbridge.personaplex.static_files import folder_of

    if not 0 <= args.port <= 65535:
        raise ConfigError("--port", "command line", f"{args.port} is not a port; use 0 to 65535")
    for option, number in (
        ("--queue", args.queue),
        ("--drain-s", args.drain_s),
        ("--prefix-gb", args.prefix_gb or 0),
    ):
        if not (math.isfinite(number) and number >= 0):
            raise ConfigError(option, "command line", f"{number} is not a number from 0 on")
    for origin in args.allow_origin:
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise ConfigError(
                "--allow-origin",
                "command line",
                f"{origin!r} is not an origin; use https://SERVER, or *",
            )
    return Options(
        host=args.host,
        port=args.port,
        token=token_in(os.environ),
        allow_anonymous=args.allow_anonymous,
        origins=frozenset(origin.rstrip("/").lower() for origin in args.allow_origin),
        ssl=args.ssl,
        static=folder_of(args.static),
        record_input=args.record_input,
        model_arguments=tuple(engine_options.model_arguments(args)),
        line=args.queue,
        drain_s=args.drain_s,
        defaults=Defaults(args.default_voice_prompt, args.default_text_prompt),
    )


def token_in(environ: Mapping[str, str]) -> str | None:
    """The token that clients must show, without the quotes that an env file may leave around it.

    Raises:
        ConfigError: It is too short, or cannot stand in a header.
    """
    token = environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    token = unquoted(token)
    if re.fullmatch(rf"[\x21-\x7e]{{{LEAST_TOKEN_CHARS},}}", token) is None:
        problem = (
            f"a token is at least {LEAST_TOKEN_CHARS} ASCII characters without spaces, for example from "
            "`openssl rand -hex 24`"
        )
        raise ConfigError(TOKEN_VARIABLE, "environment", problem)
    return token


def _load(args: argparse.Namespace, prepared: Prepared, console: Console) -> Loaded:
    """Reads the checkpoint; raises InputError."""
    from dataclasses import replace
    from functools import partial

    from pxbridge.personaplex import device
    from pxbridge.personaplex.assembly import assemble, footprint_of
    from pxbridge.personaplex.personas import FilePersonas
    from pxbridge.personaplex.serve import Loaded
    from pxbridge.personaplex.slots import plan
    from pxbridge.personaplex.text import Detokenizer

    lm, mimi = engine_options.configurations(args)
    options = engine_options.model_options(args, lm)
    planned = plan(
        footprint_of(lm, mimi, options),
        device.free_bytes(options.device),
        context=options.context,
        device=options.device,
        slots=_slots(args.slots, options),
        prefix_bytes=None if args.prefix_gb is None else round(args.prefix_gb * 1e9),
    )
    log.info("slots: %s; serving %d", planned.arithmetic, planned.slots)
    options = replace(options, slots=planned.slots, prefix_bytes=planned.prefix_bytes)

    def tell(sentence: str) -> None:
        say(console, sentence)

    assembled = assemble(engine_options.sources(args), lm, mimi, options, tell)
    model, tokenizer = assembled.model, assembled.tokenizer
    personas = FilePersonas(assembled.voices, tokenizer, model.longest_prompt)
    _require_voice(personas, prepared)
    file = args.moshi_weight or args.checkpoint
    name = args.hf_repo if file is None else file.name
    memory = partial(device.memory, options.device)
    return Loaded(name, model, personas, lambda: Detokenizer(tokenizer), memory)


def _slots(written: str, options: ModelOptions) -> int | None:
    """How many slots are asked for; None: as many as fit. On a CPU a slot that nobody uses costs time too."""
    if written == "auto":
        return 1 if options.device == "cpu" else None
    if written.isdecimal() and int(written) >= 1:
        return int(written)
    raise InputError(f"--slots {written}: a number from 1 on, or auto, is needed")


def _require_voice(personas: FilePersonas, prepared: Prepared) -> None:
    """Says at the start what every client would be told: that there is no voice."""
    names = personas.voices()
    if not names:
        raise InputError(
            "there is no voice: NVIDIA's are voices.tgz of the checkpoint's repository, and a recording of "
            "5 to 15 seconds as NAME.wav in --voice-prompt-dir makes another"
        )
    default = prepared.options.defaults.voice
    if default is not None:
        try:
            personas.prompt(default, "")
        except InputError as error:
            raise ConfigError("--default-voice-prompt", "command line", str(error)) from error
