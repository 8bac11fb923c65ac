from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pxbridge.telephony.exotel.webhooks import WEBHOOK_PATH
from pxbridge.telephony.reserved import RESERVED_WORDS
from pxbridge.telephony.tokens import TOKEN_PATH


def is_taken(name: str) -> bool:
    path = f"/exotel/{name}"
    return WEBHOOK_PATH.fullmatch(path) is not None or TOKEN_PATH.fullmatch(path + "/") is not None


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True) | st.sampled_from(sorted(RESERVED_WORDS)))
def test_a_word_is_reserved_if_and_only_if_the_port_answers_it_itself(name: str) -> None:
    assert is_taken(name) == (name in RESERVED_WORDS)
