"""What an operator sees of whole calls: in the metrics, on the console, in the log."""

from __future__ import annotations

import asyncio
import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge.calls import stats_sampler
from pxbridge.calls.call import CallRecord
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.delay import PARTS
from pxbridge.calls.events import Event, Kind
from pxbridge.calls.numbers import Numbers
from pxbridge.calls.persona import Persona, Personas
from pxbridge.calls.summary import summary
from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.commands.report import make_report
from pxbridge.ops.logs import CallLog, logging_to
from pxbridge.ops.metrics import Metrics
from pxbridge.records.recent_calls import RecentCalls
from pxbridge.simulation import faults
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import HangUp, Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode
from pxbridge.wording import lasted

if TYPE_CHECKING:
    from typing import Any


def samples(metrics: Metrics) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus writes them."""
    found = {}
    for family in text_string_to_metric_families(metrics.scrape().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_call_is_counted_with_its_times_and_delays() -> None:
    metrics = Metrics()

    async def main() -> Phone:
        async with bridge(prompt_s=0.6, subscribers=[metrics]) as b:
            phone = await b.call(Script(speech(), speak_at_s=2.0, hang_up_at_s=9.0), Line(chunk_ms=20))
            await b.record()
            return phone

    phone = run(main())
    told = samples(metrics)
    assert told["pxbridge_calls_total{outcome=completed}"] == 1
    assert told["pxbridge_live_calls"] == 0
    assert told["pxbridge_call_setup_seconds_sum"] == pytest.approx(0.6, abs=0.1)
    assert told["pxbridge_call_duration_seconds_sum"] == pytest.approx(9.0, abs=0.2)
    assert told["pxbridge_call_first_audio_seconds_sum"] == pytest.approx(
        phone.player.first_audio_s or 0.0, abs=1.5
    )
    assert told["pxbridge_call_mouth_to_ear_seconds_count"] >= 6
    assert told["pxbridge_engine_step_seconds_sum"] / told["pxbridge_engine_step_seconds_count"] < 0.08
    assert {part.name for part in PARTS} == {
        re.findall(r"part=(\w+)", name)[0]
        for name in told
        if name.startswith("pxbridge_call_delay_seconds_sum")
    }


@pytest.mark.parametrize("chunk_ms", [20, 100])
def test_the_estimated_delay_is_what_a_caller_measures(chunk_ms: int) -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge() as b:
            phone = await b.call(Script(speech(), speak_at_s=1.0, hang_up_at_s=7.0), Line(chunk_ms=chunk_ms))
            return phone, (await b.record()).delay.median_s() or 0.0

    phone, estimate_s = run(main())
    measured_s = listen(phone.said, phone.player.heard, 8000).delay_s()
    assert measured_s is not None
    assert 0.005 < measured_s - estimate_s < 0.02  # the codecs


def test_what_goes_wrong_is_counted_while_the_call_goes_on() -> None:
    metrics = Metrics()

    async def main() -> dict[str, float]:
        async with bridge((faults.Stalls(after_steps=25, for_s=0.6),), subscribers=[metrics]) as b:
            call = asyncio.create_task(b.call(Script(speech(), speak_at_s=0.5, hang_up_at_s=9.0)))
            await asyncio.sleep(7.0)
            told = samples(metrics)
            await call
            await b.record()
            return told

    told = run(main())
    assert told["pxbridge_live_calls"] == 1
    assert told["pxbridge_holes_total"] >= 1
    assert told["pxbridge_inserted_seconds_total{direction=to_phone,how=noise}"] > 0.1
    after = samples(metrics)
    assert after["pxbridge_live_calls"] == 0
    assert after["pxbridge_holes_total"] >= told["pxbridge_holes_total"]


def test_words_that_a_silent_engine_was_not_given_are_told_everywhere() -> None:
    metrics = Metrics()

    async def main() -> tuple[Phone, CallTelemetry, CallRecord]:
        network = parse_network("stall 8s at 4s up")
        async with bridge(
            prompt_s=1.0, engine_network=network, limits=CallLimits(), subscribers=[metrics]
        ) as b:
            phone = Phone(Script(speech(), speak_at_s=0.5, hang_up_at_s=16.0), Line(chunk_ms=20))
            telemetry = CallTelemetry(phone.line.rate_hz)
            await place_call(b.url(), phone, observe=telemetry.add)
            return phone, telemetry, await b.record()

    phone, telemetry, record = run(main())
    withheld_s = record.stats["uplink"]["withheld"] / 8000
    assert withheld_s > 5.0
    told = samples(metrics)
    removed = "pxbridge_removed_seconds_total{{direction=to_engine,how={}}}"
    assert told[removed.format("withheld")] == pytest.approx(withheld_s)
    assert told[removed.format("no_engine")] == pytest.approx(0.95, abs=0.15)  # the newest 80 ms were kept
    assert told[removed.format("gated")] == pytest.approx(0.2)
    line = dict(make_report(phone, telemetry).details())["to the agent"]
    assert f"the engine did not answer 1 time: {lasted(withheld_s)} withheld" in line
    assert "said before an engine was ready; 200 ms of the line's opening silenced" in line
    figures = summary(record, Numbers(), record.ended_s)
    assert figures["holds"] == 1
    assert figures["withheld_s"] == pytest.approx(withheld_s, abs=1e-4)
    assert figures["removed_s"] >= withheld_s
    assert figures["slow"] == 0
    assert figures["unheard_s"] == pytest.approx(1.15, abs=0.15)


def test_an_engine_that_is_behind_is_told_as_such() -> None:
    async def main() -> tuple[Phone, CallTelemetry, CallRecord]:
        async with bridge(step_ms=100, limits=CallLimits()) as b:
            phone = Phone(Script(speech(), speak_at_s=0.5, hang_up_at_s=16.0), Line(chunk_ms=20))
            telemetry = CallTelemetry(phone.line.rate_hz)
            await place_call(b.url(), phone, observe=telemetry.add)
            return phone, telemetry, await b.record()

    phone, telemetry, record = run(main())
    slow = record.stats["uplink"]["slow"]
    assert slow > 0
    line = dict(make_report(phone, telemetry).details())["to the agent"]
    assert f"the engine was too slow {slow:.0f} time" in line
    assert summary(record, Numbers(), record.ended_s)["slow"] == slow


def test_while_an_engine_is_dead_no_delay_is_told() -> None:
    metrics = Metrics()

    async def main() -> CallRecord:
        network = parse_network("stall 10s at 4s")
        async with bridge(engine_network=network, limits=CallLimits(), subscribers=[metrics]) as b:
            await b.call(Script(speech(), speak_at_s=0.5, hang_up_at_s=14.0), Line(chunk_ms=20))
            return await b.record()

    record = run(main())
    answered_for_s = record.stats["downlink"]["received"] / 8000
    told = samples(metrics)
    for name in ("call_mouth_to_ear", "engine_step"):
        assert told[f"pxbridge_{name}_seconds_count"] <= answered_for_s / stats_sampler.EVERY_S + 1
    assert len(record.delay.samples_s["mouth_to_ear"]) == told["pxbridge_call_mouth_to_ear_seconds_count"]


def test_the_drift_of_the_phones_clock_is_told() -> None:
    metrics = Metrics()

    async def main() -> tuple[Phone, CallTelemetry, CallRecord]:
        async with bridge(subscribers=[metrics]) as b:
            phone = Phone(Script(speech(), hang_up_at_s=72.0), Line(), parse_network("drift +100ppm"))
            telemetry = CallTelemetry(phone.line.rate_hz)
            await place_call(b.url(), phone, observe=telemetry.add)
            return phone, telemetry, await b.record()

    phone, telemetry, record = run(main())
    told = samples(metrics)
    assert told["pxbridge_phone_clock_drift_ppm_count"] == 1
    assert told["pxbridge_phone_clock_drift_ppm_bucket{le=50.0}"] == 0
    assert told["pxbridge_phone_clock_drift_ppm_bucket{le=200.0}"] == 1
    assert summary(record, Numbers(), record.ended_s)["drift_ppm"] == pytest.approx(100, abs=15)
    rows = dict(make_report(phone, telemetry).details())
    assert re.search(r"; your clock: \d+ ppm fast", rows["to the agent"])


def test_outcomes_are_told_apart() -> None:
    metrics = Metrics()

    async def main() -> None:
        async with bridge((faults.BreaksOffPrompting(),), subscribers=[metrics]) as b:
            await b.call(Script(hang_up_at_s=30.0))
            await b.record()
        async with bridge((faults.RefusesUpgrade(500),), subscribers=[metrics]) as b:
            await b.call(Script(hang_up_at_s=30.0))
            await b.record()
            assert [stages["setup"] for stages in b.pool.failures().values()] > [0]
        async with bridge(prompt_s=5.0, subscribers=[metrics]) as b:
            await b.call(Script(hang_up_at_s=1.0))
            await b.record()
        async with bridge(subscribers=[metrics]) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=30.0), Line(call_sid="one")))
            await asyncio.sleep(3.0)
            await b.call(Script(hang_up_at_s=8.0), Line(call_sid="one"))
            await first
            await b.record()
            reasons = [record.ending.reason for record in b.records if record.ending is not None]
            assert "replaced by a second connection for the same call" in reasons
            await b.call(Script(hang_up_at_s=4.0), Line(hang_up=HangUp.ABORT))
            ending = (await b.record()).ending
            assert ending is not None and ending.reason.startswith("the line broke off: ")

    run(main())
    told = samples(metrics)
    assert told["pxbridge_calls_total{outcome=replaced}"] == 1
    assert told["pxbridge_calls_total{outcome=completed}"] == 1
    assert told["pxbridge_calls_total{outcome=phone_lost}"] == 1
    assert told["pxbridge_calls_total{outcome=fault}"] == 0
    assert told["pxbridge_calls_total{outcome=engine_failed}"] == 1
    assert told["pxbridge_calls_total{outcome=no_engine}"] == 1
    assert told["pxbridge_calls_total{outcome=abandoned}"] == 1


def test_recent_calls_tell_live_calls_and_remembers_those_that_ended() -> None:
    async def main() -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
        recent = RecentCalls(Numbers(), asyncio.get_running_loop().time, wall=lambda: 1_000.0)
        async with bridge(subscribers=[recent]) as b:
            call = asyncio.create_task(b.call(Script(hang_up_at_s=4.0), Line(call_sid="one")))
            await asyncio.sleep(2.5)
            during = recent.calls()
            await call
            await b.record()
            return during, recent.calls()

    during, after = run(main())
    assert [call["call"] for call in during["live"]] == ["one"]
    assert during["live"][0]["outcome"] == "live"
    assert during["live"][0]["began_at"] == pytest.approx(997.5, abs=0.2)
    assert during["recent"] == [] and after["live"] == []
    assert after["recent"][0]["outcome"] == "completed"
    assert json.loads(json.dumps(after)) == after


@pytest.mark.parametrize("level", ["info", "debug"])
def test_nothing_private_is_in_logs_or_metrics(level: str) -> None:
    """Not a caller's number, not a prompt, not what was said, not the keys pressed, no payload."""
    metrics, stream = Metrics(), io.StringIO()
    line = Line(
        from_number="+919876501234",
        to_number="+918041119999",
        custom_parameters={"text_prompt": "You know the vault's code", "pin": "0815-4711"},
        dtmf=((1.0, "7"), (1.2, "3")),
    )

    async def main() -> None:
        with logging_to(stream, level, "json"):
            async with bridge(mode=Mode.PARROT, subscribers=[metrics, CallLog(Numbers())]) as b:
                await b.call(Script(speech(), hang_up_at_s=12.0), line)
                assert "something" in "".join((await b.record()).words)

    run(main())
    text = stream.getvalue() + metrics.scrape().decode()
    assert "call ended" in text
    for private in ("9876501234", "8041119999", "vault", "0815-4711", "something", '"7"', "payload"):
        assert private not in text, private
    assert not re.search(r"[A-Za-z0-9+/]{200}", text), "a payload"


def test_the_time_to_the_first_engine_is_the_set_up_time() -> None:
    metrics = Metrics()
    record = CallRecord(opened_s=1.0, started_s=1.1)
    metrics(record, Event(Kind.STARTED, 1.1))
    record.ready_s = 1.6
    for at_s in (1.6001, 30.0):  # the second after a fail-over
        metrics(record, Event(Kind.LIVE, at_s, {"engine": "ws://gpu", "prompt_s": 0.4}))
        metrics(record, Event(Kind.COUNTERS, at_s))
    told = samples(metrics)
    assert told["pxbridge_call_setup_seconds_count"] == 1
    assert told["pxbridge_call_setup_seconds_sum"] == pytest.approx(0.5)


def test_a_greeting_is_told_apart_from_the_engine_and_the_agent_everywhere() -> None:
    metrics, stream = Metrics(), io.StringIO()
    greeting = resources.files("pxbridge") / "assets" / "one-moment.ogg"
    greeter = Persona("NATF0.pt", "You are kind.", greeting=Path(str(greeting)))

    async def main() -> tuple[Phone, dict[str, Any], dict[str, float]]:
        recent = RecentCalls(Numbers(), asyncio.get_running_loop().time)
        options: dict[str, Any] = {"prompt_s": 0.4, "mode": Mode.CANNED, "personas": Personas(greeter)}
        with logging_to(stream, "info", "json"):
            async with bridge(**options, subscribers=[metrics, recent]) as b:
                call = asyncio.create_task(b.call(Script(hang_up_at_s=8.0)))
                await asyncio.sleep(6.0)
                during = samples(metrics)
                phone = await call
                await b.record()
                return phone, recent.calls()["recent"][0], during

    phone, figures, during = run(main())
    assert figures["setup_s"] == pytest.approx(0.4, abs=0.1)
    assert figures["first_sound_s"] == pytest.approx(phone.player.first_audio_s, abs=0.1)
    assert figures["first_sound_s"] < 0.1 and figures["first_audio_s"] > 1.5
    for figure, metric in (
        ("setup_s", "pxbridge_call_setup_seconds"),
        ("first_sound_s", "pxbridge_call_first_sound_seconds"),
        ("first_audio_s", "pxbridge_call_first_audio_seconds"),
    ):
        assert during[f"{metric}_count"] == 1, "while the call goes on"
        assert during[f"{metric}_sum"] == pytest.approx(figures[figure], abs=1e-3)
        assert samples(metrics)[f"{metric}_count"] == 1
    lines = {line["event"]: line for line in map(json.loads, stream.getvalue().splitlines())}
    assert lines["call live"]["setup_s"] == pytest.approx(figures["setup_s"], abs=1e-3)
    assert lines["agent heard"]["after_s"] == pytest.approx(figures["first_audio_s"], abs=1e-3)
    assert (
        lines["call ended"].items() >= {each: figures[each] for each in ("setup_s", "first_sound_s")}.items()
    )


def test_what_a_caller_says_to_a_greeting_or_to_nobody_is_told_apart_from_the_conversation() -> None:
    async def main() -> CallRecord:
        async with bridge(prompt_s=4.0) as b:
            await b.call(Script(speech(), speak_at_s=0.0, hang_up_at_s=8.0))
            return await b.record()

    record = run(main())
    assert record.live_s is not None and 2.0 < record.said_before_s < 4.2


def test_an_engine_that_is_lost_before_it_is_heard_is_no_gap_in_the_conversation() -> None:
    metrics = Metrics()

    async def main() -> float:
        async with bridge((faults.Dies(after_steps=0),), (), subscribers=[metrics]) as b:
            await b.call(Script(speech(), speak_at_s=0.5, hang_up_at_s=12.0))
            await b.record()
            assert sum(stages["call"] for stages in b.pool.failures().values()) == 1
            (heard,) = (event for event in b.events if event.kind is Kind.HEARD)
            return float(heard.detail["after_s"])

    after_s = run(main())
    told = samples(metrics)
    assert told["pxbridge_call_failover_seconds_count"] == 0
    assert told["pxbridge_call_first_audio_seconds_sum"] == pytest.approx(after_s, abs=1e-3)


def test_the_gap_between_a_lost_engine_and_the_next_is_measured() -> None:
    metrics = Metrics()

    async def main() -> None:
        async with bridge((faults.Dies(after_steps=40),), (), subscribers=[metrics]) as b:
            await b.call(Script(speech(), speak_at_s=0.5, hang_up_at_s=12.0))
            await b.record()
            assert sum(stages["call"] for stages in b.pool.failures().values()) == 1

    run(main())
    told = samples(metrics)
    assert told["pxbridge_calls_total{outcome=completed}"] == 1
    assert told["pxbridge_call_failover_seconds_count"] == 1
    assert 0 < told["pxbridge_call_failover_seconds_sum"] < 2.0
    assert told["pxbridge_call_setup_seconds_count"] == 1


def test_the_documentation_names_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    metrics = Metrics()
    families = {family.name for family in text_string_to_metric_families(metrics.scrape().decode())}
    for name in sorted(families):
        if name.startswith("pxbridge_") and name != "pxbridge_info":
            assert re.search(rf"`{name.removeprefix('pxbridge_')}(_total)?[`{{]", page), name
