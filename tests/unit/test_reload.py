"""SIGHUP with files that are wrong in every way: the old settings stay, and the log says why."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.app import reload
from pxbridge.app.reload import Reloader
from pxbridge.settings.files import MAX_BYTES
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.app.assembly import Bridge
    from pxbridge.settings import Loaded

PLAIN = 'voice_prompt = "NATM1.pt"\n'
NOTHING = "nothing has changed"
VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass
class Parts:
    """What a reload changes of a bridge."""

    registry: Any = field(default_factory=lambda: SimpleNamespace(personas=None, playout=None))
    opener: Any = field(default_factory=lambda: SimpleNamespace(settings=None))
    in_force: dict[str, object] = field(default_factory=dict)
    fails: bool = False

    @property
    def pool(self) -> Any:
        return SimpleNamespace(
            keep_warm=lambda warm: self.in_force.update(warm=warm),
            replace_engines=lambda engines: self.in_force.update(engines=engines),
        )

    @property
    def shedding(self) -> Any:
        return SimpleNamespace(use=lambda above, below: self.in_force.update(shedding=(above, below)))

    @property
    def names(self) -> Any:
        return SimpleNamespace(use=lambda unknown: self.in_force.update(unknown=unknown))

    @property
    def voice_watch(self) -> Any:
        return SimpleNamespace(look_again=lambda: None)

    @property
    def console(self) -> Any:
        def use(used: settings.Settings) -> None:
            self.in_force.update(console=[each.get_secret_value() for each in used.console_credentials])

        return SimpleNamespace(use=use)

    @property
    def access(self) -> Any:
        return SimpleNamespace(use=self._use)

    def _use(self, used: object) -> None:
        if self.fails:
            self.fails = False
            raise KeyError("a fault of pxbridge")
        self.in_force["access"] = used

    def state(self) -> object:
        return (self.registry.personas, self.registry.playout, self.opener.settings, dict(self.in_force))


class Reloaded:
    """A bridge whose file was replaced, and what it logged."""

    def __init__(self, folder: Path, first: str = PLAIN) -> None:
        self.file = folder / "pxbridge.toml"
        self.file.write_text(first)
        self.parts = Parts()
        self.read: Callable[[], Loaded] = lambda: settings.load({"config": str(self.file)}, {})
        loaded = self.read()
        self.reloader = Reloader(loaded, lambda: self.read(), cast("Bridge", self.parts))
        self.reloader._use(loaded.settings, read_personas(loaded))
        self.before = self.parts.state()

    def reload(self) -> str:
        """Reloads; what was logged."""
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("pxbridge")
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.INFO)
        try:
            asyncio.run(self.reloader.reload())
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return "\n".join(lines)

    def changed(self) -> bool:
        return self.parts.state() != self.before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('greeting_file = "x"', "no such setting"),
        ("port = " + "9" * 5000, "it has a number that is too long"),
        ("port = 0x" + "f" * 4500, "it has a number that is too long"),
        ("port = " + "[" * 5000 + "]" * 5000, "nested more than 16 levels deep"),
        ("a." * 5000 + "b = 1", "nested more than 16 levels deep"),
        ('[personas.a]\ngreeting = "a\\u0000b"', "personas.a.greeting"),
        ('[personas.a]\ngreeting = "~nobody-of-this-name/a.wav"', "there is no such user"),
        ('[personas.a]\ngreeting = "/dev/zero"', "personas.a.greeting"),
        ('[personas.a]\ngreeting = "/"', "personas.a.greeting"),
        ('engine_ca_file = "a\\u0000b"', "no file can have this name"),
        ('engine_ca_file = "/dev/zero"', "it is not a regular file"),
        ('engine_ca_file = "/"', "it is not a regular file"),
        ('token_keys_file = "a\\u0000b"', "no file can have this name"),
        ('token_keys_file = "/dev/zero"', f"is larger than {MAX_BYTES} bytes"),
        ('token_keys_file = "/"', "Is a directory"),
        ('token_keys_file = "~nobody-of-this-name/a"', "there is no such user"),
        ('token_keys_file = "' + "a" * 5000 + '"', "File name too long"),
        ("#" * (MAX_BYTES + 1), f"is larger than {MAX_BYTES} bytes"),
    ],
    ids=lambda text: text[:40],
)
def test_a_file_that_cannot_be_used_changes_nothing_and_the_log_says_why(
    text: str, why: str, tmp_path: Path
) -> None:
    bridge = Reloaded(tmp_path)
    bridge.file.write_text(text)
    log = bridge.reload()
    assert log.startswith("reload: ") and why in log and log.endswith("; the settings stay as they were"), log
    assert "\n" not in log and len(log) < reload.MAX_PROBLEM_CHARS + 100
    assert not bridge.changed()


def test_the_consoles_logins_hold_at_once_and_a_public_console_keeps_one(tmp_path: Path) -> None:
    secret = tmp_path / "logins"
    secret.write_text("asha:correct-horse-battery\n")
    public = PLAIN + f'console_host = "0.0.0.0"\nconsole_credentials_file = "{secret}"\n'
    bridge = Reloaded(tmp_path, public)
    secret.write_text("ravi:another-long-password\n")
    assert "changed settings: console_credentials" in bridge.reload()
    assert bridge.parts.in_force["console"] == ["ravi:another-long-password"]
    bridge.file.write_text(PLAIN + 'console_host = "0.0.0.0"\n')
    assert "the console asks for no login" in bridge.reload()
    assert bridge.parts.in_force["console"] == ["ravi:another-long-password"]


def test_a_file_that_is_a_folder_or_gone_changes_nothing(tmp_path: Path) -> None:
    bridge = Reloaded(tmp_path)
    bridge.file.unlink()
    assert "No such file" in bridge.reload()
    bridge.file.mkdir()
    assert "Is a directory" in bridge.reload()
    assert not bridge.changed()


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError(), KeyError("secret"), OSError(5, "I/O error")]
)
def test_whatever_reading_raises_changes_nothing(error: Exception, tmp_path: Path) -> None:
    bridge = Reloaded(tmp_path)

    def fail() -> Loaded:
        raise error

    bridge.read = fail
    log = bridge.reload()
    assert f"{type(error).__name__} at test_reload.py, line " in log and "secret" not in log
    assert log.endswith("the settings stay as they were") and not bridge.changed()


MANY = """
voice_prompt = "NATM1.pt"
max_calls = 7
credentials = ["asha:first-of-two-secrets"]
[personas.books]
text_prompt = "You sell books."
keys = { "0" = "end" }
[personas.old]
[personas.same]
"""


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("You sell books.", "You lend books.", "persona books: text_prompt"),
        (
            '{ "0" = "end" }',
            '{ "1" = "end" }\nrecord = true\nnumbers = ["+918047180000"]',
            "persona books: numbers, keys, record",
        ),
        (
            "[personas.old]",
            '[personas.new]\nvoice_prompt = "NATF2.pt"',
            "persona new: new; persona old: removed",
        ),
        ("NATM1.pt", "NATF2.pt", "changed settings: voice_prompt"),
        ("[personas.old]", '[personas.default]\nvoice_prompt = "NATM1.pt"\n[personas.old]', NOTHING),
        (
            "[personas.old]",
            "[personas.default]\nrecord = true\n[personas.old]",
            "persona default: record",
        ),
        ("first-of-two", "second-of-two", "changed settings: credentials"),
        ("[personas.old]", "[personas.old] # still here", NOTHING),
        (
            "NATM1.pt",
            'NATF2.pt"\ngate_ms = 100\nwarm_sessions = 0\nlog_level = "debug',
            "changed settings: gate_ms, voice_prompt, warm_sessions\n"
            "reload: a change of log_level needs a restart",
        ),
        (
            "max_calls = 7",
            "max_calls = 8",
            "nothing that takes effect without a restart has changed\n"
            "reload: a change of max_calls needs a restart",
        ),
    ],
)
def test_what_has_changed_is_named_and_no_value_is_told(
    was: str, now: str, told: str, tmp_path: Path
) -> None:
    bridge = Reloaded(tmp_path, MANY)
    assert was in MANY
    bridge.file.write_text(MANY.replace(was, now))
    log = bridge.reload()
    assert log == f"reloaded: {told}"
    assert "of-two-secrets" not in log


def test_of_many_personas_the_first_are_named(tmp_path: Path) -> None:
    bridge = Reloaded(tmp_path)
    bridge.file.write_text("".join(f"[personas.p{number:02}]\n" for number in range(25)))
    log = bridge.reload()
    assert "persona p00: new; " in log and log.endswith("persona p19: new; and 5 more personas")


def test_an_authority_that_is_replaced_under_its_name_is_trusted_and_named(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    certificate = (VECTORS / "engine-cert.pem").read_text()
    authority.write_text(certificate)
    text = 'engines = ["wss://gpu/api/chat"]\nallow_anonymous = true\nengine_ca_file = "ca.pem"\n'
    bridge = Reloaded(tmp_path, text)
    authority.write_text(certificate + certificate)
    assert "changed settings: engine_ca_file" in bridge.reload()
    assert bridge.changed(), "the engines' addresses say that their trust is another one"
    assert "nothing has changed" in bridge.reload()


def test_settings_that_fail_half_way_are_taken_back(tmp_path: Path) -> None:
    bridge = Reloaded(tmp_path)
    bridge.file.write_text('voice_prompt = "NATF2.pt"\n[personas.a]\n')
    bridge.parts.fails = True
    assert "KeyError at test_reload.py" in bridge.reload()
    assert not bridge.changed()
    assert "changed settings: voice_prompt" in bridge.reload(), "the next reload is tried all the same"
    assert bridge.changed()


def test_a_file_that_is_never_read_to_its_end_gives_way_to_the_next_reload(tmp_path: Path) -> None:
    bridge = Reloaded(tmp_path)

    async def never(_work: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reload, "in_thread", never)
            await bridge.reloader.reload()

    run(main())
    assert not bridge.changed()
    bridge.file.write_text("")
    assert "changed settings: voice_prompt" in bridge.reload()


VALUES = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["9" * 4301, "0x" + "f" * 4000, "1e400", "nan", "-inf", "true", "1979-05-27", "07:32:00"]
    ),
    st.sampled_from(
        ['""', '"\\u0000"', '"~x/y"', '"/"', '"."', '"/dev/null"', "'''a\nb'''", '"' + "é" * 999 + '"']
    ),
    st.text(max_size=30).map(lambda text: '"' + "".join(f"\\U{ord(c):08X}" for c in text) + '"'),
    st.integers(0, 1200).map(lambda depth: "[" * depth + "]" * depth),
    st.integers(0, 300).map(lambda depth: "{a=" * depth + "1" + "}" * depth),
    st.lists(st.sampled_from(['"+911"', '"ws://x"', "1", "[]", "{}"]), max_size=3).map(
        lambda each: f"[{','.join(each)}]"
    ),
)
NAMES = st.one_of(
    st.sampled_from([*settings.Settings.model_fields, "engines_file", "credentials_file", "personas"]),
    st.from_regex(r"[a-z_.]{1,20}", fullmatch=True),
)
PERSONA_KEYS = st.sampled_from(
    [
        "voice_prompt",
        "text_prompt",
        "numbers",
        "greeting",
        "max_duration_s",
        "keys",
        "phrases",
        "record",
        "warm",
    ]
)
LINES = st.one_of(
    st.tuples(NAMES, VALUES).map(" = ".join),
    st.sampled_from(["[personas.a]", "[personas.default]", "[personas]", "[[personas.b]]", "[port]"]),
    st.tuples(PERSONA_KEYS, VALUES).map(" = ".join),
    st.text(max_size=20),
)
FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(LINES, max_size=6).map(lambda lines: "\n".join(lines).encode(errors="replace")),
)


@given(FILES)
@example(b"\xff\xfe")
@example(b"\x00")
@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_ends_the_bridge(tmp_path: Path, data: bytes) -> None:
    bridge = Reloaded(tmp_path)
    bridge.file.write_bytes(data)
    log = bridge.reload()
    stayed = "the settings stay as they were" in log
    assert stayed or "reloaded: " in log
    assert not (stayed and bridge.changed()), log
    assert ", line " not in log or "TOML" in log, "the reason has no words of its own"


def test_engines_that_stay_until_a_restart_keep_their_token_and_certificate(tmp_path: Path) -> None:
    engines = (
        'engines = ["wss://gpu/api/chat"]\ncredentials = "asha:0123456789abcdef"\n'
        f'engine_token = "0123456789abcdef"\nengine_fingerprint = "{"AB" * 32}"\n'
    )
    one = Reloaded(tmp_path, engines)
    before = one.parts.in_force["engines"]
    one.file.write_text(PLAIN + 'credentials = "asha:0123456789abcdef"\n')
    told = one.reload()
    assert one.parts.in_force["engines"] == before
    assert "a change of engine_fingerprint, engine_token, engines needs a restart" in told
