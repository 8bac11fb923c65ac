"""A bridge in front of the engine's server, in one virtual-time loop."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.call.rig import IMPATIENT, KIND, Bridge

from pxbridge.calls.events import Event, Kind
from pxbridge.calls.registry import CallRegistry
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.client import open_session
from pxbridge.engines.leases import MemoryLeases
from pxbridge.engines.pool import EnginePool, Prompts
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.server import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.personaplex.rig import Rig

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.conversation import CallLimits
    from pxbridge.engines.session import Session


class CommonLeases(MemoryLeases):
    """A store that bridges share, in this process."""

    renew_every_s: float | None = 0.3


@asynccontextmanager
async def bridge_to(
    *rigs: Rig,
    token: str | None = None,
    limits: CallLimits = IMPATIENT,
    warm: int = 0,
    store: MemoryLeases | None = None,
) -> AsyncIterator[Bridge]:
    """A bridge with these engines, and with settings for NVIDIA's server: one call for each engine."""
    prompted: list[Prompts] = []

    async def open_engine(
        address: EngineAddress,
        prompts: Prompts,
        connected: Callable[[Session], None],
        moved: Callable[[int], None] | None = None,
    ) -> Session:
        prompted.append(prompts)
        return await open_session(address, *prompts, connected=connected, moved=moved)

    async with AsyncExitStack() as stack:
        addresses = [EngineAddress(rig.url("").rstrip("?"), token=token) for rig in rigs]
        ahead = Prompts(KIND.default.voice_prompt, KIND.default.text_prompt)
        pool = await stack.enter_async_context(
            EnginePool(addresses, 1, open_session=open_engine, store=store, warm={ahead: warm})
        )
        records: list[CallRecord] = []
        events: list[Event] = []

        def keep(record: CallRecord, event: Event) -> None:
            events.append(event)
            if event.kind is Kind.ENDED:
                records.append(record)

        registry = CallRegistry(pool, KIND, [keep], [], None, limits, None)
        listener = await stack.enter_async_context(
            listen(registry.handle, "127.0.0.1", 0, carriers=[ExotelRoutes()])
        )
        yield Bridge(listener, registry, pool, [], records, prompted, events)
