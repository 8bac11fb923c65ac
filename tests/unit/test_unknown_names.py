"""Names of personas and voices that do not exist: what becomes of the call, what is counted and logged."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pxbridge.calls.persona import Persona, Personas, Where, number_key
from pxbridge.calls.unknown_names import NameCheck, UnknownNames, voice_problems
from pxbridge.chat_wire import NVIDIAS_VOICES
from pxbridge.engines import voices as engine_voices
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.voices import EngineVoices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pxbridge.calls.unknown_names import Choice

ENGINES = [EngineAddress(f"ws://{name}:8998/api/chat") for name in "ab"]
PERSONAS = Personas(
    Persona("NATF0.pt", "You are kind."),
    {"books": Persona("NATM1.pt", "You sell books.", "books")},
    {number_key("08047180000"): "books"},
)


def told(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str] | None) -> EngineVoices:
    """What is known once each engine has told these voices; None: it tells none."""
    of = dict(zip(ENGINES, answers, strict=False))

    async def ask(engines: Sequence[EngineAddress], _timeout_s: float) -> Sequence[str] | None:
        return of[engines[0]]

    monkeypatch.setattr(engine_voices, "ask_voices", ask)
    voices = EngineVoices()
    asyncio.run(voices.ask(ENGINES[: len(answers)], ENGINES[: len(answers)]))
    return voices


class Check(NameCheck):
    """A check whose log is a list, and whose time passes at once when it is told to."""

    def __init__(self, unknown: UnknownNames, voices: EngineVoices | None = None) -> None:
        self.later: list[Callable[[], None]] = []
        super().__init__(unknown, voices, lambda _s, call: self.later.append(call))

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for call in due:
            call()

    def of(self, path: str | None = None, called: str = "", **custom: str) -> Choice:
        return self.choose(PERSONAS, path, custom, caller="", called=called)

    @property
    def counted(self) -> dict[str, int]:
        return {where.value: count for where, count in self.counts.items() if count}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "pxbridge.names")

    def take() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    return take


def test_a_url_that_names_no_persona_is_refused_before_its_upgrade(logged: Any) -> None:
    check = Check(UnknownNames.REFUSE)
    assert check.refusal("books", PERSONAS) is check.refusal("default", PERSONAS) is None
    assert check.refusal("bokks", PERSONAS) == "no persona here is called 'bokks'"
    assert check.counted == {"path": 1}
    assert logged() == [
        "the URL's path names 'bokks', which is no persona here; the call is refused; "
        "there are: default, books; correct it there (did you mean books?), or add [personas.bokks]"
    ]


def test_a_thousand_such_calls_are_two_lines(logged: Any) -> None:
    check = Check(UnknownNames.REFUSE)
    for number in range(1000):
        check.refusal(f"nope-{number}", PERSONAS)
    assert len(logged()) == 1
    check.pass_time()
    (line,) = logged()
    assert line.startswith("999 times: the URL's path names 'nope-999', which is no persona here")
    check.pass_time()
    assert logged() == [] and check.counted == {"path": 1000}


def test_where_it_is_only_warned_the_rest_of_the_call_chooses(logged: Any) -> None:
    check = Check(UnknownNames.WARN)
    assert check.refusal("nope", PERSONAS) is None
    choice = check.of("nope", "+918047180000", persona="../etc")
    assert (choice.persona.name, choice.refusal) == ("books", None)
    assert choice.notes == [
        "the URL's path names 'nope', which is no persona here",
        "the parameter persona names '../etc', which is no persona here",
    ]
    assert check.counted == {"path": 1, "parameter": 1}
    by_path, by_parameter = logged()
    assert "another persona answers" in by_path and by_path.endswith("or add [personas.nope]")
    assert by_parameter.endswith("there are: default, books; correct it there"), "no name of a table"


def test_a_parameter_that_names_no_persona_ends_the_call() -> None:
    check = Check(UnknownNames.REFUSE)
    assert check.of(None, persona="night").refusal == "no persona here is called 'night'"
    assert check.of(None, persona="books").refusal is None
    check.use(UnknownNames.WARN)
    assert check.of(None, persona="night").refusal is None


def test_a_request_for_a_url_is_answered_as_the_call_would_be() -> None:
    check = Check(UnknownNames.REFUSE)
    assert check.name_for("books", "", PERSONAS) == "books"
    assert check.name_for(None, "08047180000", PERSONAS) == "books"
    with pytest.raises(LookupError, match="no persona here is called 'night'"):
        check.name_for("night", "08047180000", PERSONAS)
    check.use(UnknownNames.WARN)
    assert check.name_for("night", "08047180000", PERSONAS) == "books"
    assert check.counted == {"webhook": 2}


def test_a_voice_that_no_engine_has_ends_the_call(monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    check = Check(UnknownNames.REFUSE, told(monkeypatch, ["NATF0.pt", "NATM9.pt"], ["anna.wav"]))
    for voice in ("NATF0.pt", "anna.wav"):
        assert check.of(voice_prompt=voice).refusal is None
    assert check.of(voice_prompt="NATM99.pt").refusal == "no engine has the voice 'NATM99.pt'"
    assert check.of("books").refusal == "no engine has the voice 'NATM1.pt'"
    assert check.counted == {"voice": 2}
    assert logged() == [
        "a call asks for the voice 'NATM99.pt', which no engine has; the call is refused; "
        "there are: NATF0.pt, NATM9.pt, anna.wav; correct its voice_prompt (did you mean NATM9.pt?)"
    ]


def test_where_it_is_only_warned_a_voice_that_exists_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check(UnknownNames.WARN, told(monkeypatch, ["NATF0.pt"]))
    flows = check.of(voice_prompt="NATM99.pt")
    assert (flows.persona.voice_prompt, flows.refusal) == ("NATF0.pt", None)
    assert flows.notes == ["no engine has the voice 'NATM99.pt': NATF0.pt is used"]
    books = check.of("books").persona
    assert (books.name, books.voice_prompt) == ("books", "NATF0.pt")
    assert check.counted == {"voice": 2}


@pytest.mark.parametrize("answers", [(None,), (["NATF0.pt"], None)])
def test_an_engine_that_tells_nothing_is_asked_for_any_voice(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[Sequence[str] | None, ...], logged: Any
) -> None:
    check = Check(UnknownNames.REFUSE, told(monkeypatch, *answers))
    for voice in ("NATM3.pt", "of-our-own.pt", "anna.wav"):
        choice = check.of(voice_prompt=voice)
        assert (choice.persona.voice_prompt, choice.refusal, choice.notes) == (voice, None, [])
    assert logged() == []
    assert check.of(voice_prompt="NATM99.pt").refusal == "no engine has the voice 'NATM99.pt'"
    assert "which no engine has; the call is refused; there are: NATF0.pt, " in logged()[0]


def test_a_voice_of_a_persona_is_believed_where_no_engine_tells_any(logged: Any) -> None:
    check = Check(UnknownNames.REFUSE)
    personas = Personas(Persona("NATF99.pt", "You are kind."))
    for custom in ({}, {"voice_prompt": "NATF99.pt"}):
        choice = check.choose(personas, None, custom, caller="", called="")
        assert (choice.persona.voice_prompt, choice.refusal) == ("NATF99.pt", None)
    assert logged() == []


def test_an_engine_that_does_not_answer_keeps_its_voices(monkeypatch: pytest.MonkeyPatch) -> None:
    voices = told(monkeypatch, ["NATF0.pt"], ["NATF1.pt"])
    monkeypatch.setattr(engine_voices, "ask_voices", lambda *_: asyncio.sleep(0, None))
    asyncio.run(voices.ask(ENGINES, ENGINES))
    assert (voices.exists("NATF1.pt"), voices.exists("NATM1.pt")) == (True, False)
    asyncio.run(voices.ask(ENGINES[:1], []))
    assert voices.exists("NATF1.pt") is False, "the engine was taken out of the settings"


def test_voices_of_personas_that_engines_lack_are_named_with_what_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def problems(*answers: Sequence[str] | None, default: str = "NATF0.pt") -> list[str]:
        personas = Personas(Persona(default, "x"), {"books": PERSONAS["books"]})
        return [str(problem) for problem in voice_problems(personas, told(monkeypatch, *answers))]

    assert problems(["NATF0.pt", "NATM1.pt"]) == problems(None) == problems() == []
    assert problems(["NATF0.pt", "NATM2.pt"]) == [
        "voice_prompt of books: no engine has the voice 'NATM1.pt'; "
        "the voices are: NATF0.pt, NATM2.pt; correct it (did you mean NATM2.pt?)"
    ]
    (one,) = problems(["NATF0.pt"], ["NATF0.pt", "NATM1.pt"])
    assert "ws://a:8998/api/chat has no voice 'NATM1.pt', so such calls fail there" in one
    (mistyped,) = problems(default="NATF99.pt")
    assert mistyped.startswith("voice_prompt: 'NATF99.pt' is none of NVIDIA's voices")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    unknown=st.sampled_from(UnknownNames),
    path=st.none() | st.sampled_from(["books", "nope"]) | st.text(max_size=200),
    custom=st.dictionaries(
        st.sampled_from(["persona", "voice_prompt"]),
        st.sampled_from(["books", NVIDIAS_VOICES[0], "NATM99.pt"]) | st.text(max_size=200),
    ),
)
def test_any_call_is_answered_or_refused_and_its_lines_are_short(
    unknown: UnknownNames, path: str | None, custom: dict[str, str], logged: Any
) -> None:
    check = Check(unknown)
    choice = check.choose(PERSONAS, path, custom, caller="", called="")
    counted = sum(check.counts.values())
    assert bool(choice.refusal) == (unknown is UnknownNames.REFUSE and counted > 0)
    strange = [name for name in (path, custom.get("persona")) if name and name not in PERSONAS]
    assert check.counts[Where.PATH] + check.counts[Where.PARAMETER] <= len(strange)
    assert all(len(line) < 1000 for line in (*logged(), *choice.notes, choice.refusal or ""))
