"""Why a request to the telephony port is refused, and how it is answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Refused(StrEnum):
    """Why a request was refused. Metrics use the name, logs the value."""

    RATE = "too many requests"
    CALLS = "too many calls from one address"
    NETWORK = "address not allowed"
    NO_PROOF = "no credentials"
    WRONG_CREDENTIALS = "wrong credentials"
    BAD_TOKEN = "forged or foreign token"  # noqa: S105
    EXPIRED = "expired token"
    USED = "token of another call, or used too often"


ANSWERS: Final = {
    Refused.RATE: (429, [("Retry-After", "10")]),
    Refused.CALLS: (429, [("Retry-After", "60")]),
    Refused.NETWORK: (403, []),
    Refused.NO_PROOF: (401, [("WWW-Authenticate", 'Basic realm="pxbridge", charset="UTF-8"')]),
    Refused.WRONG_CREDENTIALS: (401, [("WWW-Authenticate", 'Basic realm="pxbridge", charset="UTF-8"')]),
    # Every fault of a token gets the same answer: the exact fault would help only a forger.
    Refused.BAD_TOKEN: (403, []),
    Refused.EXPIRED: (403, []),
    Refused.USED: (403, []),
}
