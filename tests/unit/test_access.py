"""Who may come in, without a socket: addresses, proxies, credentials and tokens at a clock that stands."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.rate_limit import MAX_ADDRESSES
from pxbridge.telephony.access import AccessControl, Visitor
from pxbridge.telephony.call_tokens import HANDSHAKES
from pxbridge.telephony.refusals import Refused
from pxbridge.telephony.tokens import Scope, Signer, Token, without_token
from pxbridge.websocket import Headers, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pxbridge.settings import Network

KEY = b"k" * 32
OLD_KEY = b"o" * 32
ASHA = "asha:correct horse battery"
RAVI = "ravi:staple staple staple"
EXOTEL = "203.0.113.7"
PROXY = "10.0.0.1"


class Clock:
    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def networks(*written: str) -> list[Network]:
    return [ipaddress.ip_network(one) for one in written]


def basic(credential: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(credential.encode()).decode()


def ask(
    path: str = "/exotel", *headers: tuple[str, str], address: str = EXOTEL, forwarded: str | None = None
) -> Request:
    fields = list(headers)
    if forwarded is not None:
        fields.append(("X-Forwarded-For", forwarded))
    return Request(path, Headers(fields), "GET", address)


class Port:
    """Access control, and its clocks."""

    def __init__(self, keys: Iterable[bytes] = (KEY,), **options: Any) -> None:
        self.clock, self.wall = Clock(), Clock()
        self.signer = Signer(list(keys), self.wall)
        self.timers: list[Callable[[], None]] = []
        self.access = AccessControl(
            self.signer, self.clock, **options, call_later=lambda _delay_s, call: self.timers.append(call)
        )

    def status(self, request: Request, *, webhook: bool = False) -> int:
        """200 for who is let in, else the answer's."""
        answer = self.access.admit(request, webhook=webhook)
        return answer.status_code if isinstance(answer, Response) else 200

    def visitor(self, request: Request, *, webhook: bool = False) -> Visitor:
        answer = self.access.admit(request, webhook=webhook)
        assert isinstance(answer, Visitor)
        return answer


# Credentials


def test_with_nothing_set_up_anyone_comes_in() -> None:
    assert Port().visitor(ask("/exotel/nurse?x=1")) == Visitor(EXOTEL, "/exotel/nurse")


def test_each_of_several_credentials_opens_and_no_other_does() -> None:
    port = Port(credentials=[ASHA, RAVI])
    assert port.status(ask("/exotel", basic(ASHA))) == 200
    assert port.status(ask("/exotel", basic(RAVI))) == 200
    for wrong in (
        "asha:correct horse batterx",
        "asha:",
        ":",
        "",
        "asha",
        "ravi:correct horse battery",
        ASHA + " ",
    ):
        assert port.status(ask("/exotel", basic(wrong))) == 401
    assert port.access.refused == Counter({Refused.WRONG_CREDENTIALS: 7})


def test_without_credentials_one_is_asked_for_them() -> None:
    port = Port(credentials=[ASHA])
    answer = port.access.admit(ask(), webhook=False)
    assert isinstance(answer, Response)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert port.access.refused == Counter({Refused.NO_PROOF: 1})


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YXNoYQ",
        "Bearer " + basic(ASHA)[1].split()[1],
        "asha:correct horse battery",
        "Basic " + "A" * 8000,
        "Basic \x80\xff",
    ],
)
def test_an_authorization_that_is_none_opens_nothing(header: str) -> None:
    assert Port(credentials=[ASHA]).status(ask("/exotel", ("Authorization", header))) == 401


def test_two_authorizations_are_none() -> None:
    assert Port(credentials=[ASHA]).status(ask("/exotel", basic(ASHA), basic("x:y"))) == 401


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By construction: every credential and every key is compared, by the one function that promises it."""
    compared: list[tuple[object, object]] = []
    real = hmac.compare_digest

    def compare(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr("pxbridge.telephony.access.hmac.compare_digest", compare)
    port = Port((KEY, OLD_KEY), credentials=[ASHA, RAVI])
    assert port.status(ask("/exotel", basic(ASHA))) == 200
    assert len(compared) == 2
    assert {len(a) for pair in compared for a in pair if isinstance(a, bytes)} == {32}, "their lengths tell"
    assert port.status(ask(f"/exotel/t/{port.signer.make(Scope.CALL, 60)}")) == 200
    assert len(compared) == 4


# Tokens


def test_a_token_opens_until_it_expires_and_names_its_persona() -> None:
    port = Port(tokens_prove=True)
    token = port.signer.make(Scope.CALL, 60.0, "nurse")
    assert port.visitor(ask(f"/exotel/t/{token}/?sample-rate=8000")) == Visitor(EXOTEL, "/exotel/", "nurse")
    port.wall.now_s += 60.0
    assert port.status(ask(f"/exotel/t/{token}")) == 200
    port.wall.now_s += 0.5
    assert port.status(ask(f"/exotel/t/{token}")) == 403
    assert port.access.refused == Counter({Refused.EXPIRED: 1})


def test_without_a_token_nobody_comes_in_where_tokens_prove() -> None:
    port = Port(tokens_prove=True)
    assert port.status(ask()) == 401
    assert port.status(ask(webhook_path := "/exotel/url"), webhook=True) == 401
    assert port.status(ask(webhook_path, basic(ASHA)), webhook=True) == 401


def test_an_older_keys_token_opens_and_a_foreign_keys_does_not() -> None:
    port = Port((KEY, OLD_KEY), tokens_prove=True)
    old = Signer([OLD_KEY], port.wall).make(Scope.CALL, 60.0)
    foreign = Signer([b"f" * 32], port.wall).make(Scope.CALL, 60.0)
    assert port.status(ask(f"/exotel/t/{old}")) == 200
    assert port.status(ask(f"/exotel/t/{foreign}")) == 403
    new = port.signer.make(Scope.CALL, 60.0)
    assert isinstance(Signer([KEY], port.wall).check(new), Token), "the first key signs"


def test_a_calls_token_opens_no_webhook_or_it_would_renew_itself_for_ever() -> None:
    port = Port(tokens_prove=True)
    for_call, for_port = port.signer.make(Scope.CALL, 60.0), port.signer.make(Scope.PORT, 60.0)
    assert port.status(ask(f"/exotel/t/{for_call}/url"), webhook=True) == 403
    assert port.visitor(ask(f"/exotel/t/{for_port}/url"), webhook=True).path == "/exotel/url"


def test_a_calls_token_is_good_for_exotels_retry_and_not_for_a_crowd() -> None:
    port = Port(tokens_prove=True)
    token = port.signer.make(Scope.CALL, 60.0)
    answers = [port.status(ask(f"/exotel/t/{token}")) for _ in range(HANDSHAKES + 2)]
    assert answers == [200] * HANDSHAKES + [403] * 2
    for_port = port.signer.make(Scope.PORT, 60.0)
    assert {port.status(ask(f"/exotel/t/{for_port}")) for _ in range(20)} == {200}


@given(data=st.data())
def test_a_token_changed_anywhere_opens_nothing(data: st.DataObject) -> None:
    port = Port(tokens_prove=True)
    token = port.signer.make(data.draw(st.sampled_from(Scope)), 60.0, "nurse")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x7F).filter(lambda c: c not in ("?", token[at])))
    way = data.draw(st.sampled_from(("change", "cut", "insert")))
    forged = token[:at] + ("" if way == "cut" else other) + token[at + (way != "insert") :]
    if forged == token:
        return
    # The last digit of 256 bits in base64 has two that mean nothing: all the more must it be the right one.
    assert port.status(ask(f"/exotel/t/{forged}")) != 200


@given(st.text(max_size=300))
def test_no_text_is_a_token(text: str) -> None:
    assert Signer([KEY], Clock()).check(text) is Refused.BAD_TOKEN


def test_a_bad_token_is_refused_even_where_none_is_needed() -> None:
    assert Port().status(ask("/exotel/t/stale")) == 403
    assert Port(credentials=[ASHA]).status(ask("/exotel/t/stale", basic(ASHA))) == 403


def test_a_token_is_never_part_of_the_visitors_path() -> None:
    token = Port().signer.make(Scope.CALL, 60.0)
    assert without_token(f"/exotel/t/{token}") == "/exotel"
    assert without_token(f"/exotel/t/{token}/nurse") == "/exotel/nurse"
    assert without_token("/exotel/nurse") == "/exotel/nurse"
    assert without_token("/exotel/t") == "/exotel/t"


# Addresses


def test_only_allowed_networks_come_in_and_they_still_need_a_proof() -> None:
    port = Port(networks=networks("203.0.113.0/24", "2001:db8::/32"), credentials=[ASHA])
    assert port.status(ask("/exotel", basic(ASHA))) == 200
    assert port.status(ask("/exotel", basic(ASHA), address="::ffff:203.0.113.9")) == 200
    assert port.status(ask("/exotel", basic(ASHA), address="2001:db8::1")) == 200
    assert port.status(ask("/exotel", basic(ASHA), address="198.51.100.1")) == 403
    assert port.status(ask("/exotel", basic(ASHA), address="")) == 403
    assert port.status(ask()) == 401


def test_an_allowed_network_may_ask_the_webhooks_that_make_tokens() -> None:
    port = Port(networks=networks("203.0.113.0/24"), tokens_prove=True)
    assert port.status(ask("/exotel/url"), webhook=True) == 200
    assert port.status(ask("/exotel")) == 401
    assert port.status(ask("/exotel/url", address="198.51.100.1"), webhook=True) == 403


@pytest.mark.parametrize(
    ("address", "forwarded", "client"),
    [
        (EXOTEL, None, EXOTEL),
        (EXOTEL, "198.51.100.1", EXOTEL),  # it is no proxy of ours, and may write what it likes
        (PROXY, None, PROXY),
        (PROXY, "198.51.100.1", "198.51.100.1"),
        (PROXY, "127.0.0.1, 10.0.0.9, 198.51.100.1", "198.51.100.1"),  # the left is what the client claims
        (PROXY, "198.51.100.1, 10.0.0.2", "198.51.100.1"),  # two proxies of ours
        (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (PROXY, "198.51.100.1:4711", "198.51.100.1"),
        (PROXY, '"[2001:db8::7]:4711"', "2001:db8::7"),
        (PROXY, "2001:db8::7", "2001:db8::7"),
        (PROXY, "198.51.100.1, unknown", PROXY),
        (PROXY, "198.51.100.1, ", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_a_clients_address_is_the_one_that_the_last_trusted_proxy_saw(
    address: str, forwarded: str | None, client: str
) -> None:
    port = Port(proxies=networks("10.0.0.0/24"))
    assert port.access.client(ask(address=address, forwarded=forwarded)) == client


def test_several_headers_of_forwarding_are_one_list() -> None:
    port = Port(proxies=networks("10.0.0.0/24"))
    request = ask("/exotel", ("X-Forwarded-For", "127.0.0.1"), ("x-forwarded-for", EXOTEL), address=PROXY)
    assert port.access.client(request) == EXOTEL


@pytest.mark.parametrize("forwarded", [f"{EXOTEL},", f"{EXOTEL}, ", f",{EXOTEL},,", f"127.0.0.1,,{EXOTEL},"])
def test_empty_entries_in_the_list_of_forwarding_hide_no_client(forwarded: str) -> None:
    port = Port(proxies=networks("10.0.0.0/24"))
    assert port.access.client(ask(address=PROXY, forwarded=forwarded)) == EXOTEL


def test_an_address_has_only_so_many_requests_and_others_keep_theirs() -> None:
    port = Port(requests_per_minute=60)
    assert [port.status(ask()) for _ in range(12)] == [200] * 10 + [429] * 2
    assert port.status(ask(address="198.51.100.1")) == 200
    port.clock.now_s += 1.0
    assert [port.status(ask()) for _ in range(2)] == [200, 429]
    port.clock.now_s += 1000.0
    assert [port.status(ask()) for _ in range(12)] == [200] * 10 + [429] * 2


def test_wrong_passwords_use_up_the_same_requests() -> None:
    port = Port(requests_per_minute=60, credentials=[ASHA])
    assert [port.status(ask("/exotel", basic("asha:guess"))) for _ in range(12)] == [401] * 10 + [429] * 2


def test_an_ipv6_network_counts_as_one_address() -> None:
    port = Port(requests_per_minute=60)
    answers = [port.status(ask(address=f"2001:db8:1:1::{n:x}")) for n in range(12)]
    assert answers == [200] * 10 + [429] * 2
    assert port.status(ask(address="2001:db8:1:2::1")) == 200


def test_this_machines_own_requests_are_not_counted_for_they_may_be_everybodys() -> None:
    port = Port(requests_per_minute=60)
    assert {port.status(ask(address="127.0.0.1")) for _ in range(100)} == {200}
    assert {port.status(ask(address="::1")) for _ in range(100)} == {200}


def test_a_million_addresses_do_not_fill_the_memory() -> None:
    port = Port(requests_per_minute=1)
    for n in range(MAX_ADDRESSES + 100):
        port.status(ask(address=str(ipaddress.ip_address(0xCB000000 + n))))
    assert len(port.access._rate._levels) <= MAX_ADDRESSES
    port.clock.now_s += 3600.0
    port.status(ask())
    assert len(port.access._rate._levels) == 1


def test_an_address_has_only_so_many_calls_at_a_time() -> None:
    port = Port(calls_per_address=2)
    visitor, other = Visitor(EXOTEL, "/exotel"), Visitor("198.51.100.1", "/exotel")
    for _ in range(2):
        assert port.access.too_many_calls(visitor) is None
        port.access.begin_call(visitor.address)
    too_many_calls = port.access.too_many_calls(visitor)
    assert too_many_calls is not None and too_many_calls.status_code == 429
    assert port.access.too_many_calls(other) is None
    port.access.end_call(visitor.address)
    assert port.access.too_many_calls(visitor) is None
    port.access.end_call(visitor.address)
    assert not port.access._calls


# What is told


def test_a_refusal_says_in_plain_words_what_is_wrong() -> None:
    port = Port()
    told = {why: bytes(port.access.refuse(why, EXOTEL).body).decode() for why in Refused}
    assert told[Refused.NO_PROOF] == told[Refused.WRONG_CREDENTIALS] == "authentication required\n"
    assert told[Refused.RATE] == told[Refused.CALLS] == "too many requests\n"
    tokens = {told[why] for why in (Refused.BAD_TOKEN, Refused.EXPIRED, Refused.USED)}
    assert tokens == {told[Refused.NETWORK]} == {"forbidden\n"}


def test_refusals_are_logged_summed_up_and_without_what_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    port = Port(credentials=[ASHA])
    for n in range(100):
        port.status(ask("/exotel", basic(f"asha:guess-{n}")))
        port.status(ask(f"/exotel/t/guess-{n}"))
    (first,) = caplog.messages
    assert "(wrong credentials: 1)" in first
    port.timers.pop()()
    _, rest = caplog.messages
    refused = sum(int(count) for line in (first, rest) for count in re.findall(r": (\d+)[,)]", line))
    assert refused == sum(port.access.refused.values()), "every one of them was told"
    assert "guess" not in caplog.text and "horse" not in caplog.text
    port.timers.pop()()
    assert len(caplog.messages) == 2, "there was nothing more to tell"
    port.status(ask("/exotel", basic("asha:guess-x")))
    assert len(caplog.messages) == 3


def test_a_refusal_says_nothing_about_what_would_be_right() -> None:
    port = Port(credentials=[ASHA], tokens_prove=True)
    expired = port.signer.make(Scope.CALL, -10.0)
    bodies = set()
    for request in (ask(f"/exotel/t/{expired}"), ask("/exotel/t/forged"), ask(f"/exotel/t/{expired}x")):
        answer = port.access.admit(request, webhook=False)
        assert isinstance(answer, Response)
        bodies.add((answer.status_code, bytes(answer.body)))
    assert len(bodies) == 1
