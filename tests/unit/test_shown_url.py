"""What a URL may show of itself, and what a server's answer may show of the URL that was dialled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pxbridge.simulation.phone import shown, without_secrets

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789._-", min_size=20, max_size=80)
PASSWORDS = st.text(min_size=12, max_size=40).filter(
    lambda text: text not in "wss://voice.example.com/exotel"
)


def test_what_is_not_secret_is_shown() -> None:
    assert shown("ws://127.0.0.1:5050/exotel") == "ws://127.0.0.1:5050/exotel"
    url = "wss://a:b@h/exotel/t/d.1..n.s/asha?sample-rate=8000&key=k"
    assert shown(url) == "wss://h/exotel/t/…/asha?sample-rate=8000&key=…"


@given(token=TOKENS)
def test_no_token_is_shown(token: str) -> None:
    url = f"wss://voice.example.com/exotel/t/{token}"
    assert shown(url) == "wss://voice.example.com/exotel/t/…"
    assert without_secrets(f"Cannot GET /exotel/t/{token}", url) == "Cannot GET /exotel/t/…"


@given(password=PASSWORDS)
def test_no_password_is_shown_whatever_its_characters_even_without_a_scheme(password: str) -> None:
    for scheme in ("wss://", ""):
        url = f"{scheme}exotel:{password}@voice.example.com/exotel"
        assert password not in shown(url)
        assert password not in without_secrets(f"login {password} failed", url)
