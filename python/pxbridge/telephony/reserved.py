"""Words with a meaning of their own in the telephony port's paths. No persona can have one as its name.

A call names its persona in its path, after the carrier's prefix. The same place holds a carrier's webhooks
and ``t``, which begins a signed token (`pxbridge.telephony.tokens`). A persona must be reachable over every
carrier, so the words of all carriers are reserved.
"""

from __future__ import annotations

from typing import Final

RESERVED_WORDS: Final = frozenset({"url", "passthru", "connect", "t"})
