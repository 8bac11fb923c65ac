"""The rehearsal engine alone: `python -m pxbridge.simulation.rehearsal`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING

from pxbridge.errors import InputError
from pxbridge.simulation.faults import FAULTS, parse_fault
from pxbridge.simulation.rehearsal.machines import Mode
from pxbridge.simulation.rehearsal.server import DEFAULT_PROMPT_S, DEFAULT_STEP_MS, Rehearsal

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m pxbridge.simulation.rehearsal",
        description="The rehearsal engine: a server of PersonaPlex's /api/chat without a model.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8998, help="port; 0: any free one (default: %(default)s)")
    parser.add_argument(
        "--mode",
        type=Mode,
        choices=list(Mode),
        default=Mode.PARROT,
        help="what it says (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt-s", type=float, default=DEFAULT_PROMPT_S, help="time for the prompts (default: %(default)s)"
    )
    parser.add_argument(
        "--step-ms", type=float, default=DEFAULT_STEP_MS, help="time for a step (default: %(default)s)"
    )
    parser.add_argument(
        "--slots", type=int, default=1, help="conversations at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="NAME[:FIELD=VALUE,...]",
        help=f"a fault of every session; may be repeated; one of {', '.join(FAULTS)}",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve wss:// with this PEM certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if it is in another file")
    chosen = vars(parser.parse_args(arguments))
    try:
        chosen["faults"] = [parse_fault(text) for text in chosen["faults"]]
    except InputError as error:
        parser.error(str(error))
    cert, key = chosen.pop("tls_cert"), chosen.pop("tls_key")
    if cert is not None:
        chosen["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        chosen["ssl"].load_cert_chain(cert, key)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def serve_forever() -> None:
        async with Rehearsal(**chosen):
            await asyncio.get_running_loop().create_future()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve_forever())


if __name__ == "__main__":
    main()
