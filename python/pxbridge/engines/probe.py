"""The health probe: asks whether an engine works and what it reports, without opening a conversation.

NVIDIA's server has room for one conversation, so a probe must not use `/api/chat`. Any answer to a plain HTTP
request shows that the process runs and that its event loop is not blocked. `pxbridge engine` also reports how
many conversations it takes and how many more it would take now. NVIDIA's server reports nothing.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pxbridge.engines.http_get import get
from pxbridge.errors import EngineUntrusted
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.http_get import Answer

PATH: Final = "/readyz"
TIMEOUT_S: Final = 5.0
"""NVIDIA's server runs its model in its event loop, so it answers late while it reads prompts."""

MAX_SLOTS: Final = 1_000
"""More is a mistake: no GPU holds as many."""


@dataclass(frozen=True)
class Wrong:
    """The engine cannot be used.

    Attributes:
        what: What is wrong, as words that follow its name in a sentence.
        token: Whether it is our token. An engine counts wrong ones, and then lets nobody in from our address.
    """

    what: str
    token: bool = False


@dataclass(frozen=True)
class Told:
    """What an engine tells of itself.

    Attributes:
        slots: Conversations that it takes at once.
        free: Conversations that it would take now.
        model: The name of its checkpoint.
        warm_up_s: How long its warm-up took; None: it goes on, or is not told.
        has_line: Whether one more client may wait in its line.
        closed: Why it takes no new conversation although it has room, in words; None: it takes them.
        is_leaving: Whether it ends as soon as its conversations have ended.
    """

    slots: int
    free: int
    model: str = ""
    warm_up_s: float | None = None
    has_line: bool = False
    closed: str | None = None
    is_leaving: bool = False


Found = Wrong | Told | None
"""The result of a probe. None: the engine answers, and tells nothing of itself."""


async def probe(engine: EngineAddress, timeout_s: float = TIMEOUT_S) -> Found:
    """Asks an engine whether it is there, and what it tells of itself."""
    try:
        answer = await get(engine, PATH, timeout_s)
    except EngineUntrusted as problem:
        return Wrong(f"is not trusted ({str(problem).removeprefix(f'{engine}: ')})")
    except ssl.SSLCertVerificationError as problem:
        return Wrong(f"is not trusted (its certificate: {problem.verify_message})")
    except TimeoutError:
        return Wrong(f"does not answer within {timeout_s:g} s")
    except ssl.SSLError as problem:
        return Wrong(f"does not answer (TLS: {problem.reason or problem})")
    except UnicodeError as problem:
        return Wrong(f"has a host name that is not valid ({problem})")
    except OSError as problem:
        return Wrong(f"does not answer ({os_problem(problem)})")
    return Wrong("does not speak HTTP") if answer is None else _read(engine, answer)


def _read(engine: EngineAddress, answer: Answer) -> Found:
    """What an answer tells. Only an engine of pxbridge answers with such an object."""
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    if answer.status in (401, 429) and told.get("error") == "token":
        return Wrong(f"does not let us in ({engine.token_hint})", token=True)
    slots, free, line, waiting = (_count(told.get(name)) for name in ("slots", "free", "line", "waiting"))
    if slots is None or free is None or not 1 <= slots <= MAX_SLOTS:
        return None
    if told.get("token_needed") is True and not engine.credentials:
        return Wrong(f"would not let us in ({engine.token_hint})")
    warm_up, reasons = told.get("warm_up"), told.get("reasons")
    closed = None
    if told.get("ready") is not True and told.get("full") is not True:
        closed = "; ".join(map(str, reasons)) if isinstance(reasons, list) and reasons else "is not ready"
    took_s = warm_up.get("took_s") if isinstance(warm_up, dict) else None
    return Told(
        slots,
        min(free, slots),
        str(told.get("model") or ""),
        took_s if isinstance(took_s, int | float) else None,
        (waiting or 0) < (line or 0),
        closed,
        told.get("draining") is True,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
