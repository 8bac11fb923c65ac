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

from pxbridge.rate_limit import MOST_ADDRESSES
from pxbridge.telephony.access import (
    CALL_TOKEN_USES,
    AccessControl,
    Refused,
    Scope,
    Signer,
    Visitor,
    without_token,
)
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


class Door:
    """A gate, and its clocks."""

    def __init__(self, keys: Iterable[bytes] = (KEY,), **options: Any) -> None:
        self.clock, self.wall = Clock(), Clock()
        self.signer = Signer(list(keys), self.wall)
        self.timers: list[Callable[[], None]] = []
        self.gate = AccessControl(
            self.signer, self.clock, **options, later=lambda _delay_s, call: self.timers.append(call)
        )

    def status(self, request: Request, *, webhook: bool = False) -> int:
        """200 for who is let in, else the answer's."""
        answer = self.gate.enter(request, webhook=webhook)
        return answer.status_code if isinstance(answer, Response) else 200

    def visitor(self, request: Request, *, webhook: bool = False) -> Visitor:
        answer = self.gate.enter(request, webhook=webhook)
        assert isinstance(answer, Visitor)
        return answer


# Credentials


def test_with_nothing_set_up_anyone_comes_in() -> None:
    assert Door().visitor(ask("/exotel/nurse?x=1")) == Visitor(EXOTEL, "/exotel/nurse")


def test_each_of_several_credentials_opens_and_no_other_does() -> None:
    door = Door(credentials=[ASHA, RAVI])
    assert door.status(ask("/exotel", basic(ASHA))) == 200
    assert door.status(ask("/exotel", basic(RAVI))) == 200
    for wrong in (
        "asha:correct horse batterx",
        "asha:",
        ":",
        "",
        "asha",
        "ravi:correct horse battery",
        ASHA + " ",
    ):
        assert door.status(ask("/exotel", basic(wrong))) == 401
    assert door.gate.refused == Counter({Refused.WRONG_CREDENTIALS: 7})


def test_without_credentials_one_is_asked_for_them() -> None:
    door = Door(credentials=[ASHA])
    answer = door.gate.enter(ask(), webhook=False)
    assert isinstance(answer, Response)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert door.gate.refused == Counter({Refused.NO_PROOF: 1})


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
    assert Door(credentials=[ASHA]).status(ask("/exotel", ("Authorization", header))) == 401


def test_two_authorizations_are_none() -> None:
    assert Door(credentials=[ASHA]).status(ask("/exotel", basic(ASHA), basic("x:y"))) == 401


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By construction: every credential and every key is compared, by the one function that promises it."""
    compared: list[tuple[object, object]] = []
    real = hmac.compare_digest

    def compare(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr("pxbridge.telephony.access.hmac.compare_digest", compare)
    door = Door((KEY, OLD_KEY), credentials=[ASHA, RAVI])
    assert door.status(ask("/exotel", basic(ASHA))) == 200
    assert len(compared) == 2
    assert {len(a) for pair in compared for a in pair if isinstance(a, bytes)} == {32}, "their lengths tell"
    assert door.status(ask(f"/exotel/t/{door.signer.make(Scope.CALL, 60)}")) == 200
    assert len(compared) == 4


# Tokens


def test_a_token_opens_until_it_expires_and_names_its_persona() -> None:
    door = Door(tokens_prove=True)
    token = door.signer.make(Scope.CALL, 60.0, "nurse")
    assert door.visitor(ask(f"/exotel/t/{token}/?sample-rate=8000")) == Visitor(EXOTEL, "/exotel/", "nurse")
    door.wall.now_s += 60.0
    assert door.status(ask(f"/exotel/t/{token}")) == 200
    door.wall.now_s += 0.5
    assert door.status(ask(f"/exotel/t/{token}")) == 403
    assert door.gate.refused == Counter({Refused.EXPIRED: 1})


def test_without_a_token_nobody_comes_in_where_tokens_prove() -> None:
    door = Door(tokens_prove=True)
    assert door.status(ask()) == 401
    assert door.status(ask(webhook_path := "/exotel/url"), webhook=True) == 401
    assert door.status(ask(webhook_path, basic(ASHA)), webhook=True) == 401


def test_an_older_keys_token_opens_and_a_foreign_keys_does_not() -> None:
    door = Door((KEY, OLD_KEY), tokens_prove=True)
    old = Signer([OLD_KEY], door.wall).make(Scope.CALL, 60.0)
    foreign = Signer([b"f" * 32], door.wall).make(Scope.CALL, 60.0)
    assert door.status(ask(f"/exotel/t/{old}")) == 200
    assert door.status(ask(f"/exotel/t/{foreign}")) == 403
    new = door.signer.make(Scope.CALL, 60.0)
    assert isinstance(Signer([KEY], door.wall).check(new), tuple), "the first key signs"


def test_a_calls_token_opens_no_webhook_or_it_would_renew_itself_for_ever() -> None:
    door = Door(tokens_prove=True)
    for_call, for_door = door.signer.make(Scope.CALL, 60.0), door.signer.make(Scope.DOOR, 60.0)
    assert door.status(ask(f"/exotel/t/{for_call}/url"), webhook=True) == 403
    assert door.visitor(ask(f"/exotel/t/{for_door}/url"), webhook=True).path == "/exotel/url"


def test_a_calls_token_is_good_for_exotels_retry_and_not_for_a_crowd() -> None:
    door = Door(tokens_prove=True)
    token = door.signer.make(Scope.CALL, 60.0)
    answers = [door.status(ask(f"/exotel/t/{token}")) for _ in range(CALL_TOKEN_USES + 2)]
    assert answers == [200] * CALL_TOKEN_USES + [403] * 2
    for_door = door.signer.make(Scope.DOOR, 60.0)
    assert {door.status(ask(f"/exotel/t/{for_door}")) for _ in range(20)} == {200}


@given(data=st.data())
def test_a_token_changed_anywhere_opens_nothing(data: st.DataObject) -> None:
    door = Door(tokens_prove=True)
    token = door.signer.make(data.draw(st.sampled_from(Scope)), 60.0, "nurse")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x7F).filter(lambda c: c not in ("?", token[at])))
    way = data.draw(st.sampled_from(("change", "cut", "insert")))
    forged = token[:at] + ("" if way == "cut" else other) + token[at + (way != "insert") :]
    if forged == token:
        return
    # The last digit of 256 bits in base64 has two that mean nothing: all the more must it be the right one.
    assert door.status(ask(f"/exotel/t/{forged}")) != 200


@given(st.text(max_size=300))
def test_no_text_is_a_token(text: str) -> None:
    assert Signer([KEY], Clock()).check(text) is Refused.BAD_TOKEN


def test_a_bad_token_is_refused_even_where_none_is_needed() -> None:
    assert Door().status(ask("/exotel/t/stale")) == 403
    assert Door(credentials=[ASHA]).status(ask("/exotel/t/stale", basic(ASHA))) == 403


def test_a_token_is_never_part_of_the_visitors_path() -> None:
    token = Door().signer.make(Scope.CALL, 60.0)
    assert without_token(f"/exotel/t/{token}") == "/exotel"
    assert without_token(f"/exotel/t/{token}/nurse") == "/exotel/nurse"
    assert without_token("/exotel/nurse") == "/exotel/nurse"
    assert without_token("/exotel/t") == "/exotel/t"


# Addresses


def test_only_allowed_networks_come_in_and_they_still_need_a_proof() -> None:
    door = Door(networks=networks("203.0.113.0/24", "2001:db8::/32"), credentials=[ASHA])
    assert door.status(ask("/exotel", basic(ASHA))) == 200
    assert door.status(ask("/exotel", basic(ASHA), address="::ffff:203.0.113.9")) == 200
    assert door.status(ask("/exotel", basic(ASHA), address="2001:db8::1")) == 200
    assert door.status(ask("/exotel", basic(ASHA), address="198.51.100.1")) == 403
    assert door.status(ask("/exotel", basic(ASHA), address="")) == 403
    assert door.status(ask()) == 401


def test_an_allowed_network_may_ask_the_webhooks_that_make_tokens() -> None:
    door = Door(networks=networks("203.0.113.0/24"), tokens_prove=True)
    assert door.status(ask("/exotel/url"), webhook=True) == 200
    assert door.status(ask("/exotel")) == 401
    assert door.status(ask("/exotel/url", address="198.51.100.1"), webhook=True) == 403


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
        (PROXY, "198.51.100.1, ", PROXY),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_a_clients_address_is_the_one_that_the_last_trusted_proxy_saw(
    address: str, forwarded: str | None, client: str
) -> None:
    door = Door(proxies=networks("10.0.0.0/24"))
    assert door.gate.client(ask(address=address, forwarded=forwarded)) == client


def test_several_headers_of_forwarding_are_one_list() -> None:
    door = Door(proxies=networks("10.0.0.0/24"))
    request = ask("/exotel", ("X-Forwarded-For", "127.0.0.1"), ("x-forwarded-for", EXOTEL), address=PROXY)
    assert door.gate.client(request) == EXOTEL


def test_an_address_has_only_so_many_requests_and_others_keep_theirs() -> None:
    door = Door(requests_per_minute=60)
    assert [door.status(ask()) for _ in range(12)] == [200] * 10 + [429] * 2
    assert door.status(ask(address="198.51.100.1")) == 200
    door.clock.now_s += 1.0
    assert [door.status(ask()) for _ in range(2)] == [200, 429]
    door.clock.now_s += 1000.0
    assert [door.status(ask()) for _ in range(12)] == [200] * 10 + [429] * 2


def test_wrong_passwords_use_up_the_same_requests() -> None:
    door = Door(requests_per_minute=60, credentials=[ASHA])
    assert [door.status(ask("/exotel", basic("asha:guess"))) for _ in range(12)] == [401] * 10 + [429] * 2


def test_an_ipv6_network_counts_as_one_address() -> None:
    door = Door(requests_per_minute=60)
    answers = [door.status(ask(address=f"2001:db8:1:1::{n:x}")) for n in range(12)]
    assert answers == [200] * 10 + [429] * 2
    assert door.status(ask(address="2001:db8:1:2::1")) == 200


def test_this_machines_own_requests_are_not_counted_for_they_may_be_everybodys() -> None:
    door = Door(requests_per_minute=60)
    assert {door.status(ask(address="127.0.0.1")) for _ in range(100)} == {200}
    assert {door.status(ask(address="::1")) for _ in range(100)} == {200}


def test_a_million_addresses_do_not_fill_the_memory() -> None:
    door = Door(requests_per_minute=1)
    for n in range(MOST_ADDRESSES + 100):
        door.status(ask(address=str(ipaddress.ip_address(0xCB000000 + n))))
    assert len(door.gate._rate._levels) <= MOST_ADDRESSES
    door.clock.now_s += 3600.0
    door.status(ask())
    assert len(door.gate._rate._levels) == 1


def test_an_address_has_only_so_many_calls_at_a_time() -> None:
    door = Door(calls_per_address=2)
    visitor, other = Visitor(EXOTEL, "/exotel"), Visitor("198.51.100.1", "/exotel")
    for _ in range(2):
        assert door.gate.crowded(visitor) is None
        door.gate.begin_call(visitor.address)
    crowded = door.gate.crowded(visitor)
    assert crowded is not None and crowded.status_code == 429
    assert door.gate.crowded(other) is None
    door.gate.end_call(visitor.address)
    assert door.gate.crowded(visitor) is None
    door.gate.end_call(visitor.address)
    assert not door.gate._calls


# What is told


def test_refusals_are_logged_summed_up_and_without_what_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(credentials=[ASHA])
    for n in range(100):
        door.status(ask("/exotel", basic(f"asha:guess-{n}")))
        door.status(ask(f"/exotel/t/guess-{n}"))
    (first,) = caplog.messages
    assert "(wrong credentials: 1)" in first
    door.timers.pop()()
    _, rest = caplog.messages
    refused = sum(int(count) for line in (first, rest) for count in re.findall(r": (\d+)[,)]", line))
    assert refused == sum(door.gate.refused.values()), "every one of them was told"
    assert "guess" not in caplog.text and "horse" not in caplog.text
    door.timers.pop()()
    assert len(caplog.messages) == 2, "there was nothing more to tell"
    door.status(ask("/exotel", basic("asha:guess-x")))
    assert len(caplog.messages) == 3


def test_a_refusal_says_nothing_about_what_would_be_right() -> None:
    door = Door(credentials=[ASHA], tokens_prove=True)
    expired = door.signer.make(Scope.CALL, -10.0)
    bodies = set()
    for request in (ask(f"/exotel/t/{expired}"), ask("/exotel/t/forged"), ask(f"/exotel/t/{expired}x")):
        answer = door.gate.enter(request, webhook=False)
        assert isinstance(answer, Response)
        bodies.add((answer.status_code, bytes(answer.body)))
    assert len(bodies) == 1
