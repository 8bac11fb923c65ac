"""The arguments of the rehearsal engine as a program, and the program itself."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from pxbridge.errors import InputError
from pxbridge.simulation.faults import parse_fault
from pxbridge.simulation.rehearsal.machines import Mode
from pxbridge.simulation.rehearsal.server import DEFAULT_PROMPT_S, DEFAULT_STEP_MS, Rehearsal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8998, help="port; 0: any free one (default: %(default)s)")
    parser.add_argument(
        "--mode",
        type=Mode,
        choices=list(Mode),
        default=Mode.PARROT,
        metavar="|".join(Mode),
        help="what it says (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt-s",
        type=float,
        default=DEFAULT_PROMPT_S,
        metavar="SECONDS",
        help="time for the prompts (default: %(default)g)",
    )
    parser.add_argument(
        "--step-ms",
        type=float,
        default=DEFAULT_STEP_MS,
        metavar="MS",
        help="time for a step (default: %(default)g)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=1,
        metavar="N",
        help="conversations at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="NAME[:FIELD=VALUE,...]",
        help="a fault of every session; may be repeated; the faults and their fields are below",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve wss:// with this PEM certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if it is in another file")


async def serve(args: argparse.Namespace, ready: Callable[[str], None] = lambda _: None) -> None:
    """Serves until cancelled.

    Args:
        args: The parsed arguments.
        ready: Told the URL when it can be dialled.

    Raises:
        InputError: A fault or a file cannot be used, or the port cannot be listened on.
    """
    for option, given, least, most in (
        ("--port", args.port, 0, 65535),
        ("--prompt-s", args.prompt_s, 0, None),
        ("--step-ms", args.step_ms, 0, None),
        ("--slots", args.slots, 1, None),
    ):
        if given < least or (most is not None and given > most):
            raise InputError(
                f"{option} {given:g} is not {least}{' or more' if most is None else f' to {most}'}"
            )
    tls = None
    if args.tls_cert is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(args.tls_cert, args.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--tls-cert {args.tls_cert}: {error.strerror or error}") from error
    engine = Rehearsal(
        host=args.host,
        port=args.port,
        mode=args.mode,
        prompt_s=args.prompt_s,
        step_ms=args.step_ms,
        slots=args.slots,
        faults=[parse_fault(text) for text in args.faults],
        ssl=tls,
    )
    try:
        async with engine:
            ready(engine.url)
            await asyncio.get_running_loop().create_future()
    except OSError as error:
        raise InputError(f"--port {args.port}: cannot listen there: {error.strerror or error}") from error
