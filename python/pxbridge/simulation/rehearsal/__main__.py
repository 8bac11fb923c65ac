"""The rehearsal engine alone: `python -m pxbridge.simulation.rehearsal`. People use `pxbridge rehearse`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from pxbridge.errors import InputError
from pxbridge.simulation.rehearsal.program import add_arguments, serve

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m pxbridge.simulation.rehearsal",
        description="The rehearsal engine: a server of PersonaPlex's /api/chat without a model.",
    )
    add_arguments(parser)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(args))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
