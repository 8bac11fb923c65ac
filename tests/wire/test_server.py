"""The telephony door: who is let in, who is told what, and that nothing is left when it closes."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from tests.call.dummy_carriers import DummyRoutes, Parcel, Stream
from tests.exotel_server import line_rate_hz, listen
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pxbridge.telephony import server
from pxbridge.telephony.exotel.messages import Media, Start, parse
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.spelling import Exotel

if TYPE_CHECKING:
    from pxbridge.telephony.routes import CarrierRoutes
    from pxbridge.telephony.server import Arrival, TelephonyServer


class Calls:
    """A call owner that notes what it was given and lives until it is told to end."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.end = asyncio.Event()
        self.cancelled = 0

    async def own(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        socket = arrival.socket
        socket.on_message = lambda payload, _text: self.messages.put_nowait(payload)
        ended = asyncio.create_task(self.end.wait())
        gone = asyncio.create_task(socket.wait_closed())
        try:
            await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            ended.cancel()
            gone.cancel()


async def get(listener: TelephonyServer, path: str, method: str = "GET") -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{listener.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


def url(listener: TelephonyServer, path: str = "/exotel") -> str:
    return f"ws://127.0.0.1:{listener.port}{path}"


@pytest.mark.parametrize(
    ("path", "rate_hz"),
    [
        ("/", 8000),
        ("/exotel", 8000),
        ("/exotel/", 8000),
        ("/?sample-rate=8000", 8000),
        ("/exotel?sample-rate=16000", 16000),
        ("/exotel?sample_rate=24000&persona=nurse", 24000),
        ("/exotel?a=b&sampleRate=16kHz", 16000),
    ],
)
async def test_a_call_comes_in_with_the_rate_its_url_names(path: str, rate_hz: int) -> None:
    calls = Calls()
    async with listen(calls.own, "127.0.0.1", 0) as listener, connect(url(listener, path)) as phone:
        exotel = Exotel("MZ1")
        await phone.send(exotel.start(call_sid="CA1"))
        assert parse(await calls.messages.get()) == parse(Exotel("MZ1").start(call_sid="CA1"))
        assert [line_rate_hz(arrival) for arrival in calls.arrivals] == [rate_hz]
        assert [arrival.peer for arrival in calls.arrivals] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("path", "persona"),
    [
        ("/exotel", None),
        ("/exotel/nurse", "nurse"),
        ("/exotel/night-desk_2/?sample-rate=8000", "night-desk_2"),
    ],
)
async def test_the_path_names_the_persona(path: str, persona: str | None) -> None:
    calls = Calls()
    async with listen(calls.own, "127.0.0.1", 0) as listener, connect(url(listener, path)) as phone:
        await phone.send("hello")
        await calls.messages.get()
        assert [arrival.persona_name for arrival in calls.arrivals] == [persona]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/exotel", "Exotel"), ("/", "Exotel"), ("/parcel/nurse", "Parcel"), ("/stream", "Stream")],
)
async def test_the_path_chooses_the_carrier_whatever_is_said_first(path: str, name: str) -> None:
    calls = Calls()
    carriers: list[CarrierRoutes] = [DummyRoutes(Stream), ExotelRoutes(), DummyRoutes(Parcel)]
    async with server.listen(calls.own, "127.0.0.1", 0, carriers=carriers) as listener:
        for first in (Exotel("MZ1").start(call_sid="CA1"), b"\x00\x01", '{"type": "begin"}'):
            async with connect(url(listener, path)) as phone:
                await phone.send(first)
                await calls.messages.get()
        assert {arrival.carrier.name for arrival in calls.arrivals} == {name}
        assert len(calls.arrivals) == 3


async def test_a_carrier_that_is_not_served_is_not_found() -> None:
    async with server.listen(Calls().own, "127.0.0.1", 0, carriers=[DummyRoutes(Parcel)]) as listener:
        assert (await get(listener, "/parcel"))[0] == 426
        for path in ("/", "/exotel", "/exotel/url", "/stream", "/parcel/t/nobody"):
            assert (await get(listener, path))[0] in (403, 404)


@pytest.mark.parametrize(
    "path",
    ["/exotel/../nurse", "/exotel/%2e%2e", "/exotel/a/b", "/exotel/" + "n" * 65, "/exotel/a.b", "/exotel//"],
)
async def test_what_is_no_name_of_a_persona_is_not_found(path: str) -> None:
    async with listen(Calls().own, "127.0.0.1", 0) as listener:
        assert (await get(listener, path))[0] == 404


async def test_exotels_largest_payload_passes() -> None:
    calls = Calls()
    payload = bytes(100_000)
    async with listen(calls.own, "127.0.0.1", 0) as listener, connect(url(listener)) as phone:
        exotel = Exotel("MZ1")
        await phone.send(exotel.start(call_sid="CA1"))
        await phone.send(exotel.media(payload, 0))
        assert isinstance(parse(await calls.messages.get()), Start)
        media = parse(await calls.messages.get())
        assert isinstance(media, Media)
        assert media.payload == payload


@pytest.mark.parametrize("value", ["11025", "", "fast", "-8000", "8", "0x1F40"])
async def test_a_rate_that_does_not_exist_is_refused_with_the_mend(value: str) -> None:
    async with listen(Calls().own, "127.0.0.1", 0) as listener:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(listener, f"/?sample-rate={value}"))
        assert refused.value.response.status_code == 400
        assert b"8000, 16000 or 24000" in refused.value.response.body


async def test_plain_requests_are_answered() -> None:
    async with listen(Calls().own, "127.0.0.1", 0) as listener:
        assert await get(listener, "/livez") == (200, "alive\n")
        assert await get(listener, "/livez", "HEAD") == (200, "")
        assert await get(listener, "/readyz") == (200, "ready\n")
        assert (await get(listener, "/exotelx"))[0] == 404
        assert (await get(listener, "/livez/x"))[0] == 404
        assert (await get(listener, "/livez", "DELETE"))[0] == 405
        assert (await get(listener, "/exotel"))[0] == 426


async def test_readiness_tells_every_reason() -> None:
    reasons = ["no engine answers", "the disk is full"]
    async with listen(Calls().own, "127.0.0.1", 0, not_ready=lambda: reasons) as listener:
        assert await get(listener, "/readyz") == (503, "no engine answers\nthe disk is full\n")
        assert (await get(listener, "/livez"))[0] == 200
        reasons.clear()
        assert (await get(listener, "/readyz"))[0] == 200


async def test_one_call_too_many_is_refused_before_its_upgrade_and_room_comes_back() -> None:
    calls = Calls()
    async with listen(calls.own, "127.0.0.1", 0, max_calls=1) as listener:
        async with connect(url(listener)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(listener))
            assert refused.value.response.status_code == 503
            assert listener.refused == 1
            assert await get(listener, "/readyz") == (503, "the only call is in use\n")
            assert len(listener._calls) == 1
        await listener._no_calls.wait()
        async with connect(url(listener)):
            assert (await get(listener, "/livez"))[0] == 200


async def test_an_overloaded_process_refuses_new_calls_before_their_upgrade_and_keeps_the_others() -> None:
    calls, late = Calls(), ["overloaded: the event loop is 85 ms late"]
    reasons: list[str] = []
    async with (
        listen(calls.own, "127.0.0.1", 0, overloaded=lambda: reasons) as listener,
        connect(url(listener)) as phone,
    ):
        reasons[:] = late
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(listener))
        assert refused.value.response.status_code == 503
        assert (listener.room, listener.refusals["overloaded"], listener.refusals["full"]) == (0, 1, 0)
        listener._max_calls = 1
        assert listener.full() == ["the only call is in use"]
        with pytest.raises(InvalidStatus):
            await connect(url(listener))
        assert (listener.refusals["overloaded"], listener.refusals["full"]) == (1, 1), "as it was answered"
        listener._max_calls = 1000
        assert await get(listener, "/readyz") == (503, "overloaded: the event loop is 85 ms late\n")
        assert (await get(listener, "/livez"))[0] == 200
        await phone.send("still here")
        assert await calls.messages.get() == b"still here"
        reasons.clear()
        async with connect(url(listener)):
            assert (await get(listener, "/readyz"))[0] == 200


async def test_a_call_that_fails_ends_alone() -> None:
    calls = Calls()

    async def own(arrival: Arrival) -> None:
        if arrival.persona_name is not None:
            raise LookupError("a fault of ours")
        await calls.own(arrival)

    async with listen(own, "127.0.0.1", 0) as listener, connect(url(listener)) as healthy:
        async with connect(url(listener, "/exotel/nurse")) as unlucky:
            with pytest.raises(ConnectionClosed) as closed:
                await unlucky.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
        await healthy.send("still here")
        assert await calls.messages.get() == b"still here"


async def test_the_socket_is_closed_when_its_owner_returns() -> None:
    calls = Calls()
    async with listen(calls.own, "127.0.0.1", 0) as listener, connect(url(listener)) as phone:
        calls.end.set()
        with pytest.raises(ConnectionClosed) as closed:
            await phone.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_draining_refuses_new_calls_and_waits_for_the_last_one() -> None:
    calls = Calls()
    async with listen(calls.own, "127.0.0.1", 0) as listener, connect(url(listener)) as phone:
        await phone.send("hello")
        await calls.messages.get()
        drained = asyncio.create_task(listener.drain())
        assert (await get(listener, "/readyz"))[1] == "draining: no new calls\n"
        assert (await get(listener, "/livez"))[0] == 200
        with pytest.raises(InvalidStatus):
            await connect(url(listener))
        assert not drained.done()
        calls.end.set()
        await drained
        assert not listener._calls


async def test_closing_the_door_cancels_live_calls_and_leaves_nothing() -> None:
    calls = Calls()
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as phones:
        async with listen(calls.own, "127.0.0.1", 0) as listener:
            sockets = [await phones.enter_async_context(connect(url(listener))) for _ in range(5)]
            for phone in sockets:
                await phone.send("hello")
                await calls.messages.get()
        assert calls.cancelled == 5
        assert not listener._calls
        for phone in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                await phone.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
    assert asyncio.all_tasks() == before


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    async with listen(Calls().own, "127.0.0.1", 0) as listener:
        with pytest.raises(OSError, match="in use"):
            async with listen(Calls().own, "127.0.0.1", listener.port):
                pass
