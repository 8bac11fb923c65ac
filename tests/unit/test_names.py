"""The old, private words are gone from the names in the code, and the field's terms are in their place.

`OLD` lists the old words in the sense that they had. A name that is public, or that has the word in another
sense, stands in ``public_names.toml`` with the reason.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from tests import python_source, rust_source

ROOT: Final = Path(__file__).parents[2]
EXCEPTIONS: Final = tomllib.loads((Path(__file__).parent / "public_names.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Old:
    """An old word.

    Attributes:
        word: Its parts in lower case, joined by ``_``.
        instead: What the code says now.
        language: ``rust``, ``python``, or empty for both.
        kinds: Which declarations had this sense; empty for all.
        whole: The word is the whole name, and not a part of it.
    """

    word: str
    instead: str
    language: str = ""
    kinds: frozenset[str] = frozenset()
    whole: bool = False

    def is_in(self, kind: str, name: str) -> bool:
        """Whether a declared name has the word."""
        parts = "_".join(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))
        found = parts == self.word if self.whole else f"_{self.word}_" in f"_{parts}_"
        return found and (not self.kinds or kind in self.kinds)


TYPES: Final = frozenset({"module", "mod", "class", "struct", "enum", "trait"})
MODULES: Final = frozenset({"module", "mod"})

OLD: Final = (
    Old("exotel_queue", "remote_playback"),
    Old("hold", "jitter_margin", "rust"),
    Old("trips", "ping_rtt", "rust"),
    Old("span", "windowed_range", "rust"),
    Old("lateness", "relative_delay", "rust"),
    Old("patience", "stall_timeout"),
    Old("arrears", "engine_backlog"),
    Old("owes", "outstanding"),
    Old("backlog", "sync_buffer", "rust", TYPES, whole=True),
    Old("filler", "concealment"),
    Old("voice", "vad", "rust", MODULES),
    Old("way_varies", "return_jitter"),
    Old("dry", "drained_at"),
    Old("hush", "fade_out"),
    Old("heard_out", "is_drained"),
    Old("exchange", "CallRegistry"),
    Old("record", "call_state", "python", MODULES, whole=True),
    Old("keeper", "RecordWriter"),
    Old("ledger", "RecentCalls"),
    Old("tape", "StereoTimeline"),
    Old("pulse", "StatsSampler"),
    Old("alarm", "WakeupTimer"),
    Old("alarms", "WakeupTimer"),
    Old("timing", "PlayoutOptions"),
    Old("shelf", "HandOverStore"),
    Old("standing", "Continuation"),
    Old("gate", "AccessControl", "python"),
    Old("door", "access"),
    Old("rates", "rate_limit", "python", MODULES),
    Old("buckets", "RateLimiter", "python", TYPES),
    Old("tally", "log_throttle"),
    Old("rounds", "periodic"),
    Old("nodes", "PeerBridges"),
    Old("node", "PeerBridges"),
    Old("fleet", "SlotTransitions"),
    Old("upkeep", "maintenance"),
    Old("container", "strict_ogg"),
    Old("crowd", "load_callers"),
    Old("inside", "call_telemetry", "python"),
    Old("picture", "plot"),
    Old("listening", "mouth_to_ear", "python", MODULES),
    Old("tell", "emit", "python"),
    Old("watcher", "Subscriber"),
    Old("watchers", "Subscriber"),
)


@cache
def declared(language: str) -> list[tuple[str, str, str]]:
    """What the product declares: (kind, name, file)."""
    if language == "python":
        reader, roots, ending = python_source.declared, ["python/pxbridge"], "*.py*"
    else:
        reader, ending = rust_source.declared, "*.rs"
        roots = ["rust/core/src", "rust/core/tests", "rust/bindings/src", "rust/fuzz/fuzz_targets"]
    return [
        (kind, name, str(file.relative_to(ROOT)))
        for root in roots
        for file in sorted((ROOT / root).rglob(ending))
        if file.suffix in (".py", ".pyi", ".rs")
        for kind, name in {*reader(file.read_text(encoding="utf-8")), ("module", file.stem)}
    ]


def occurrences(old: Old) -> list[tuple[str, str]]:
    """The names with an old word that no exception allows, each with its file."""
    allowed = [each for each in EXCEPTIONS["except"] if each["word"] == old.word]
    return [
        (name, file)
        for language in ([old.language] if old.language else ["python", "rust"])
        for kind, name, file in declared(language)
        if old.is_in(kind, name)
        and not any(name in each["names"] and each.get("in", "") in file for each in allowed)
    ]


@pytest.mark.parametrize("old", OLD, ids=lambda old: old.word)
def test_an_old_word_is_gone(old: Old) -> None:
    assert occurrences(old) == [], f"say {old.instead}"


def test_every_exception_has_a_reason_and_is_needed() -> None:
    words = {old.word: old for old in OLD}
    for each in EXCEPTIONS["except"]:
        old = words[each["word"]]
        assert each["reason"]
        for name in each["names"]:
            assert any(
                name == declared_name and each.get("in", "") in file and old.is_in(kind, name)
                for language in ("python", "rust")
                for kind, declared_name, file in declared(language)
            ), f"{name} is not there any more"


@pytest.mark.parametrize(
    ("word", "kind", "name"),
    [
        ("keeper", "class", "RecordKeeper"),
        ("tape", "field", "_tape"),
        ("alarms", "parameter", "alarms"),
        ("record", "module", "record"),
        ("exotel_queue", "struct", "ExotelQueue"),
        ("dry", "field", "dry_us"),
        ("backlog", "mod", "backlog"),
    ],
)
def test_an_old_name_would_be_found(word: str, kind: str, name: str) -> None:
    assert next(old for old in OLD if old.word == word).is_in(kind, name)


@pytest.mark.parametrize(
    ("word", "kind", "name"),
    [
        ("tape", "field", "tapered"),
        ("backlog", "field", "max_backlog_ms"),
        ("record", "parameter", "record"),
        ("voice", "field", "voice_prompt"),
    ],
)
def test_another_name_would_not(word: str, kind: str, name: str) -> None:
    assert not next(old for old in OLD if old.word == word).is_in(kind, name)
