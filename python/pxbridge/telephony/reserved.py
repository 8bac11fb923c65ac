"""Words that mean something themselves in the telephony port's paths, so that no persona can have their name.

A call names its persona in its path, after the carrier's name. The same place holds a carrier's webhooks and
``t``, which begins a signed token (`pxbridge.telephony.access`). A persona must be reachable over every
carrier: so the words of all of them are reserved.
"""

from __future__ import annotations

from typing import Final

RESERVED_WORDS: Final = frozenset({"url", "passthru", "connect", "t"})
