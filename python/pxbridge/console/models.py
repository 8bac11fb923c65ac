"""Requests and answers of the console's API. The OpenAPI document and the client's types come from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from pxbridge.calls.numbers import MAX_NUMBERS
from pxbridge.calls.start_times import START_TIMES

MAX_NAME_CHARS = 64
"""The longest name of an operator in logs and records."""


_ABOUT = {each.figure: each.about for each in START_TIMES}


class Given(BaseModel):
    """What the server answers with. Every field is always there."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class Asked(BaseModel):
    """What a client sends. Fields that are not known are ignored."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=False)


class Refused(Given):
    """Why a request was refused."""

    error: str = Field(description="For people.")


# -- sessions -----------------------------------------------------------------------------------------------


class Session(Given):
    """Who uses this browser."""

    login: bool = Field(description="Whether this console asks for a login.")
    user: str | None = Field(description="Who is logged in; null if nobody is.")
    version: str = Field(description="The version of the bridge.")


class Login(Asked):
    """A login."""

    user: Annotated[str, Field(min_length=1, max_length=256)]
    password: Annotated[str, Field(max_length=1024)]


# -- calls --------------------------------------------------------------------------------------------------


class CallFigures(Given):
    """A call that lives or has ended, with its figures. Durations are in seconds; null is not known (yet)."""

    began_at: float = Field(description="Seconds since 1970.")
    phase: str
    key: str = Field(description="The bridge's own id of the call, which no peer can choose.")
    peer: str = Field(description="The address that the connection came from.")
    call: str = Field(description="The carrier's id of the call.")
    stream: str
    carrier: str
    caller: str
    called: str
    persona: str
    engine: str
    rate_hz: int
    outcome: str
    ended_by: str | None
    reason: str | None
    setup_s: float | None = Field(description=_ABOUT["setup_s"])
    first_sound_s: float | None = Field(description=_ABOUT["first_sound_s"])
    first_audio_s: float | None = Field(description=_ABOUT["first_audio_s"])
    duration_s: float = Field(description="From the accepted connection to the end, or until now.")
    mouth_to_ear_s: float | None = Field(description="The median of the call so far.")
    mouth_to_ear_p95_s: float | None
    mouth_to_ear_now_s: float | None = Field(
        description="The newest reading, as the live page shows it. null while the engine sends nothing, and "
        "after the call's end."
    )
    delay_phone_chunk_s: float | None
    delay_intake_s: float | None
    delay_engine_s: float | None
    delay_playout_s: float | None
    delay_exotel_s: float | None = Field(description="In the queue at the carrier, whichever carrier it is.")
    inserted_s: float = Field(description="Audio that one side did not send and the other received.")
    removed_s: float = Field(description="Audio that one side sent and the other did not receive.")
    withheld_s: float = Field(description="Of removed_s: not given to an engine that did not answer.")
    unheard_s: float = Field(
        description="Not in removed_s: said before an engine was ready, or while the line opened."
    )
    longest_hole_s: float
    longest_stall_s: float
    drift_ppm: float | None = Field(description="How much faster the phone's clock runs than ours.")
    failovers: int = Field(description="Engines that were lost during the call.")
    holes: int = Field(
        description="How often the engine's audio was missing when it should have been played."
    )
    stalls: int = Field(description="How often the phone's audio was missing.")
    holds: int = Field(description="How often audio was withheld from an engine that did not answer.")
    slow: int = Field(description="How often an engine was too slow, and got less than was said.")
    malformed: int = Field(description="Damaged messages from the phone.")


class LiveFigures(CallFigures):
    """A live call's figures, with its line's counters: those of `pxbridge.audio.Line.stats`."""

    counters: dict[str, dict[str, float | None]] = Field(
        description="uplink: phone to engine; downlink: engine to phone. Samples, unless the name says more."
    )


class Calls(Given):
    """Live calls, the oldest first, and those that ended last, the newest first."""

    live: list[CallFigures]
    recent: list[CallFigures]


_NUMBER = r"^[ ().-]*\+?[ ().-]*([0-9][ ().-]*){3,15}$"
"""What `pxbridge.calls.numbers.dialable` takes, for the description."""


class EndCall(Asked):
    """Ends a call, once the agent has finished its sentence."""

    call: str = Field(description="The id of a live call, or the beginning of it.", max_length=1024)
    by: str = Field(default="", description="Who asks, where the console asks for no login.", max_length=1024)


class HandOverCall(EndCall):
    """Hands a call over to a person, once the agent has finished its sentence."""

    numbers: list[Annotated[str, WithJsonSchema({"type": "string", "pattern": _NUMBER})]] = Field(
        default=[], max_length=MAX_NUMBERS, description="Rung one after the other; none: as the flow says."
    )


class Done(Given):
    """What was asked is being done."""

    call: str = Field(description="The call's id.")


# -- live ---------------------------------------------------------------------------------------------------


class LiveCall(Given):
    """A live call as the table shows it."""

    key: str = Field(description="The bridge's own id, unique.")
    id: str = Field(description="The carrier's id of the call.")
    carrier: str
    caller: str = Field(description="As the setting record_numbers says.")
    called: str
    persona: str
    phase: str = Field(description="starting, prompting, waiting, live, failover or leaving.")
    began_at: float = Field(description="Seconds since 1970.")
    engine: str | None
    delay_ms: float | None = Field(
        description="From the caller's mouth to the answer in the ear: mouth_to_ear_now_s of a call's "
        "figures, in ms."
    )
    caller_speaks: bool
    agent_speaks: bool
    caller_share: float = Field(
        description="How much of the time since an agent was connected the caller has spoken, 0 to 1."
    )
    agent_share: float
    recorded: bool
    operator_asked: Literal["end", "hand over"] | None


class LiveEngine(Given):
    """An engine and its slots."""

    name: str
    state: Literal["ready", "busy", "elsewhere", "unhealthy"]
    slots: int
    taken: int = Field(description="Slots of calls, here or at other bridges.")
    warm: int
    idle: int
    sessions: int = Field(description="Sessions that are open or being opened, warm ones included.")
    failures: int = Field(
        description="Since the bridge's start: sessions that failed or were lost. An engine that says that "
        "it is full or restarts has not failed."
    )
    reason: str | None = Field(description="Why it cannot be used.")
    step_ms: float | None = Field(
        description="From a frame's last sample sent to its answer, the network to the engine included: "
        "median of its calls' newest readings."
    )


class Snapshot(Given):
    """How everything stands, five times a second."""

    type: Literal["snapshot"] = "snapshot"
    at: float = Field(description="Seconds since 1970.")
    calls: list[LiveCall]
    engines: list[LiveEngine]
    waiting: int = Field(description="Calls that wait for an engine.")
    ready: bool
    reasons: list[str] = Field(description="Why no call can be taken.")
    rehearsal: bool = Field(description="Whether the engine is the rehearsal engine, which is not a model.")


# -- talk ---------------------------------------------------------------------------------------------------


class TalkPersona(Given):
    """An agent to talk with."""

    name: str
    voice: str
    prompt: str
    recorded: bool
    greets: bool = Field(description="Whether it plays a greeting before it listens.")


class Talk(Given):
    """What the talk page can offer."""

    rehearsal: bool
    recorded: bool = Field(description="Whether talks with the default persona are recorded.")
    voices: list[str]
    voice: str | None = Field(description="The voice to begin with.")
    prompt_limit: int = Field(description="In characters.")
    samples: bool = Field(description="Whether temperature, top-k and seed have an effect.")
    personas: list[TalkPersona] = Field(description="The first is the default.")
