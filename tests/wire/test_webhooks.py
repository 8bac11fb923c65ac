"""What a flow asks before and after its stream, over real sockets, in the spellings it is asked in."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exotel_server import line_rate_hz
from websockets.asyncio.client import connect

from pxbridge.calls.handover import HandOvers
from pxbridge.calls.persona import Persona, Personas, number_key
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.webhooks import Webhooks, read_parameters
from pxbridge.telephony.server import Arrival, TelephonyServer, listen
from pxbridge.telephony.tokens import Signer
from pxbridge.websocket import Headers, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = b"k" * 32
PUBLIC_URL = "wss://voice.example.com"
PERSONAS = Personas(
    Persona("NATF0.pt", "You are kind."),
    {"nurse": Persona("NATF0.pt", "You are a nurse.", "nurse")},
    {number_key("08047180000"): "nurse"},
)
FORM = ("Content-Type", "application/x-www-form-urlencoded")


class Answer:
    """Of an HTTP request."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Flow:
    """An Exotel flow: asks webhooks, and can dial what they answer."""

    def __init__(self) -> None:
        self.handovers = HandOvers(time.monotonic)
        self.busy: list[str] = []
        self.promised: list[str] = []
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self.listener: TelephonyServer

    async def own(self, arrival: Arrival) -> None:
        self.arrivals.put_nowait(arrival)
        arrival.socket.on_message = lambda _payload, _text: None
        await arrival.socket.wait_closed()

    async def ask(
        self,
        path: str,
        *headers: tuple[str, str],
        method: str = "GET",
        body: bytes = b"",
        host: str = "bridge",
    ) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        if body and "Transfer-Encoding" not in dict(headers):
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        try:
            return Answer(await reader.read())
        finally:
            writer.close()
            await writer.wait_closed()

    def dialled(self, url: str) -> str:
        """A URL for the internet as this machine reaches it."""
        return urlsplit(url)._replace(scheme="ws", netloc=f"127.0.0.1:{self.listener.port}").geturl()


@contextlib.asynccontextmanager
async def flow(
    *, public_url: str | None = PUBLIC_URL, max_calls: int = 10, **rules: Any
) -> AsyncIterator[Flow]:
    flow = Flow()
    signer = Signer([KEY], time.time)
    access = AccessControl(signer, time.monotonic, **rules)
    webhooks = Webhooks(
        signer,
        access,
        public_url=public_url,
        choose=PERSONAS.name_for,
        busy=lambda _call: flow.busy,
        promise=flow.promised.append,
        handed_over=flow.handovers.look_up,
    )
    async with listen(
        flow.own, "127.0.0.1", 0, carriers=[ExotelRoutes(webhooks)], max_calls=max_calls, access=access
    ) as listener:
        flow.listener = listener
        yield flow


# Before the stream


async def test_the_url_that_is_answered_lets_the_call_in_and_names_its_persona() -> None:
    async with flow(tokens_prove=True, networks=[ipaddress.ip_network("127.0.0.0/8")]) as f:
        answer = await f.ask("/exotel/url/nurse?CallSid=CA1&CallFrom=%2B911&sample-rate=16000")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        url = answer.json["url"]
        assert url.startswith("wss://voice.example.com/exotel/t/") and len(url) < 600
        async with connect(f.dialled(url)):
            arrival = await f.arrivals.get()
            assert (arrival.persona_name, arrival.peer) == ("nurse", "127.0.0.1")
            assert line_rate_hz(arrival) == 16000


async def test_the_persona_may_be_a_parameter_or_be_left_open() -> None:
    async with flow() as f:
        for query, persona in (("?PERSONA=nurse", "nurse"), ("", None)):
            url = (await f.ask(f"/exotel/url{query}")).json["url"]
            async with connect(f.dialled(url)):
                assert (await f.arrivals.get()).persona_name == persona
        assert (await f.ask("/exotel/url?persona=../etc/passwd")).status == 400
        assert (await f.ask("/exotel/url/..%2fetc")).status == 404


@pytest.mark.parametrize("parameter", ["CallTo", "callto", "To"])
async def test_the_dialled_number_chooses_the_persona_unless_one_is_named(parameter: str) -> None:
    async with flow() as f:
        for path, persona in (
            (f"/exotel/url?{parameter}=08047180000", "nurse"),
            (f"/exotel/url?{parameter}=%2B918047180000", "nurse"),
            (f"/exotel/url/default?{parameter}=08047180000", "default"),
            (f"/exotel/url?{parameter}=08000000000", None),
        ):
            url = (await f.ask(path)).json["url"]
            async with connect(f.dialled(url)):
                assert (await f.arrivals.get()).persona_name == persona


async def test_each_call_that_is_let_in_is_told_beforehand() -> None:
    async with flow() as f:
        await f.ask("/exotel/url?CallSid=CA1")
        await f.ask("/exotel/passthru?CallSid=CA1")
        assert f.promised == ["CA1"]
        f.busy = ["every engine is taken"]
        await f.ask("/exotel/url?CallSid=CA2")
        assert f.promised == ["CA1"]


async def test_a_monitor_gets_the_same_answer_and_reserves_nothing() -> None:
    async with flow() as f:
        for busy, status in (([], 200), (["every engine is taken"], 503)):
            f.busy = busy
            assert (await f.ask("/exotel/url", method="HEAD")).status == status
            assert (await f.ask("/exotel/url?CallSid=CA1", method="HEAD")).status == status
            for path in ("/exotel/url", "/exotel/url?CallSid=CA1&reserve=no"):
                answer = await f.ask(path)
                assert answer.status == status
                assert "url" in answer.json or answer.json == {"error": "every engine is taken"}
        assert f.promised == []


async def test_a_persona_that_does_not_exist_is_refused_before_the_stream() -> None:
    async with flow() as f:
        f.busy = ["every engine is taken"]
        for path in (
            "/exotel/url/nosuch",
            "/exotel/url?persona=nosuch",
            "/exotel/url/nosuch?CallTo=08047180000",
        ):
            answer = await f.ask(path)
            assert (answer.status, answer.json) == (404, {"error": "no persona here is called 'nosuch'"})


async def test_when_nothing_is_free_the_flow_is_sent_elsewhere() -> None:
    async with flow(max_calls=1) as f:
        f.busy = ["every engine is taken"]
        answer = await f.ask("/exotel/url?CallSid=CA1")
        assert answer.status == 503 and "every engine is taken" in answer.json["error"]
        f.busy = []
        url = (await f.ask("/exotel/url?CallSid=CA1")).json["url"]
        async with connect(f.dialled(url)):
            await f.arrivals.get()
            assert (await f.ask("/exotel/url?CallSid=CA2")).status == 503


async def test_the_host_is_told_by_the_setting_or_a_trusted_proxy_and_by_nobody_else() -> None:
    proxied = ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "voice.example.org")
    async with flow(public_url=None) as f:
        answer = await f.ask("/exotel/url", *proxied, host="evil.example.com")
        assert answer.status == 503
        assert "set PXBRIDGE_PUBLIC_URL to wss://" in answer.json["error"], "what to do, where it is seen"
        assert "PXBRIDGE_TRUSTED_PROXIES" in answer.json["error"]
    async with flow(public_url=None, proxies=[ipaddress.ip_network("127.0.0.1")]) as f:
        url = (await f.ask("/exotel/url", *proxied)).json["url"]
        assert url.startswith("wss://voice.example.org/exotel/t/")
        url = (await f.ask("/exotel/url", host="voice.example.org:8443")).json["url"]
        assert url.startswith("ws://voice.example.org:8443/exotel/t/")
        for host in ("a b", 'x"y', "x/y", "user@x", "", "x?y"):
            assert (await f.ask("/exotel/url", host=host)).status == 503


async def test_webhooks_ask_who_is_there() -> None:
    async with flow(credentials=["asha:correct horse"]) as f:
        for path in ("/exotel/url", "/exotel/passthru?CallSid=CA1", "/exotel/connect?CallSid=CA1"):
            assert (await f.ask(path)).status == 401
            authorization = "Authorization", "Basic YXNoYTpjb3JyZWN0IGhvcnNl"
            assert (await f.ask(path, authorization)).status in (200, 404)


# After the stream


async def test_passthru_takes_branch_b_when_the_call_was_handed_over_however_often_it_is_asked() -> None:
    async with flow() as f:
        f.handovers.decide("CA1", ["+911"])
        for _ in range(3):
            assert (await f.ask("/exotel/passthru?CallSid=CA1")).status == 302
            assert (await f.ask("/exotel/passthru?CallSid=CA2")).status == 200
        assert (await f.ask("/exotel/passthru")).status == 400


@pytest.mark.parametrize("name", ["CallSid", "callsid", "CALLSID", "callSid"])
async def test_parameters_are_taken_in_any_case_by_get_and_by_post(name: str) -> None:
    async with flow() as f:
        f.handovers.decide("CA1")
        query = urlencode({name: "CA1", "From": "+911"})
        assert (await f.ask(f"/exotel/passthru?{query}")).status == 302
        assert (await f.ask("/exotel/passthru", FORM, method="POST", body=query.encode())).status == 302
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in query.encode()) + b"0\r\n\r\n"
        chunked = "Transfer-Encoding", "chunked"
        assert (await f.ask("/exotel/passthru", FORM, chunked, method="POST", body=chunks)).status == 302
        as_json = json.dumps({name: "CA1"}).encode()
        kind = "Content-Type", "application/json; charset=utf-8"
        assert (await f.ask("/exotel/passthru", kind, method="POST", body=as_json)).status == 302
        assert (await f.ask("/exotel/passthru", kind, method="POST", body=b"[1]")).status == 400
        assert (await f.ask("/exotel/passthru", kind, method="POST", body=b"[" * 9000)).status == 400


@pytest.mark.parametrize(
    "query",
    [
        {
            "Stream[StreamSID]": "MZ1",
            "Stream[Status]": "failed",
            "Stream[DisconnectedBy]": "bot",
            "Stream[Error]": "E1",
        },
        {
            "stream[streamsid]": "MZ1",
            "STREAM[STATUS]": "failed",
            "Stream[disconnectedBy]": "bot",
            "Stream[error]": "E1",
        },
        {"Stream": '{"StreamSID": "MZ1", "Status": "failed", "DisconnectedBy": "bot", "Error": "E1"}'},
    ],
)
async def test_what_exotel_says_of_the_streams_end_is_logged_once(
    query: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with flow() as f:
        for _ in range(3):
            assert (await f.ask("/exotel/passthru?" + urlencode({"CallSid": "CA1", **query}))).status == 200
    lines = [line for line in caplog.records if "Exotel reports" in line.getMessage()]
    assert [line.getMessage() for line in lines] == [
        "Exotel reports: stream failed, disconnected by bot, error: E1"
    ]
    assert [line.__dict__["call"] for line in lines] == ["CA1"]


async def test_connect_is_told_whom_to_ring() -> None:
    async with flow() as f:
        f.handovers.decide("CA1", ["+911", "+912"])
        f.handovers.decide("CA2")
        answer = await f.ask("/exotel/connect?CallSid=CA1")
        assert (answer.status, answer.json) == (200, {"destination": {"numbers": ["+911", "+912"]}})
        for unknown in ("?CallSid=CA2", "?CallSid=CA3"):
            assert (await f.ask(f"/exotel/connect{unknown}")).status == 404
        assert (await f.ask("/exotel/connect")).status == 400


async def test_other_methods_are_refused_and_head_gets_the_head() -> None:
    async with flow() as f:
        assert (await f.ask("/exotel/passthru?CallSid=CA1", method="DELETE")).status == 405
        head = await f.ask("/exotel/connect?CallSid=CA1", method="HEAD")
        assert (head.status, head.body) == (404, b"")


# Reading parameters


def request(query: str, body: bytes = b"", kind: str = "") -> Request:
    return Request(f"/exotel/passthru?{query}", Headers({"Content-Type": kind}), "POST", "", body)


def test_parameters_are_bounded() -> None:
    with pytest.raises(ValueError, match="more than 100"):
        read_parameters(request("&".join(f"a{n}=1" for n in range(101))))
    assert len(read_parameters(request("a=" + "x" * 5000))["a"]) == 1024
    with pytest.raises(ValueError, match="JSON object"):
        read_parameters(request("", b"{", "application/json"))


@given(query=st.text(max_size=200), body=st.binary(max_size=200), json_body=st.booleans())
def test_any_parameters_are_read_as_printable_lines_or_refused(
    query: str, body: bytes, json_body: bool
) -> None:
    try:
        parameters = read_parameters(request(query, body, "application/json" if json_body else ""))
    except ValueError:
        return
    for name, value in parameters.items():
        assert value and value.isprintable()
        assert name.isprintable()
