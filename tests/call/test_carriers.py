"""A call runs over any carrier: text or binary, with a codec of its own, with marks or without."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.dummy_carriers import DummyPhone, DummyRoutes, Parcel, Stream
from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge.calls.call import LAST_WORDS_S, Party
from pxbridge.calls.events import Kind
from pxbridge.calls.handover import HandOvers
from pxbridge.calls.persona import End, HandOver, Persona, Personas
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.telephony.exotel.routes import ExotelRoutes

if TYPE_CHECKING:
    from tests.call.dummy_carriers import DummyCarrier

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.telephony.routes import CarrierRoutes

NUMBERS = ("+918047180000",)
PERSONAS = Personas(Persona("NATF0.pt", "You are kind.", keys={"0": End(), "9": HandOver(NUMBERS)}))
CARRIERS: list[CarrierRoutes] = [DummyRoutes(Parcel), ExotelRoutes(), DummyRoutes(Stream)]
RATES_HZ = {Parcel: 8000, Stream: 24000}
KINDS = pytest.mark.parametrize("kind", RATES_HZ, ids=lambda kind: kind.name)


def phone_of(kind: type[DummyCarrier]) -> DummyPhone:
    """One that says nothing for a second, then speaks for five, and hears the end of it."""
    rate_hz = RATES_HZ[kind]
    silence = np.zeros(rate_hz, np.int16)
    return DummyPhone(kind, rate_hz, np.concatenate([silence, speech(rate_hz), silence]))


async def call(
    kind: type[DummyCarrier], key: str, handovers: HandOvers | None = None
) -> tuple[DummyPhone, CallRecord, list[str]]:
    """A call in which the caller presses a key after three seconds; with what operators were told."""
    async with bridge(personas=PERSONAS, carriers=CARRIERS, handovers=handovers) as b:
        phone = phone_of(kind)
        await phone.call(b.listener.port, keys={3.0: key})
        record = await b.record()
        return phone, record, [event.detail["text"] for event in b.events if event.kind is Kind.NOTE]


@KINDS
def test_the_callers_words_come_back_over_a_carrier_of_another_kind(kind: type[DummyCarrier]) -> None:
    phone, record, notes = run(call(kind, "5"))
    hearing = listen(phone.said, phone.player.heard, RATES_HZ[kind])
    assert hearing.correlation > 0.85
    assert hearing.dropouts == ()
    assert notes == []
    assert (record.call_id, record.caller, record.called) == ("C1", "+911", "+912")
    assert (record.rate_hz, record.malformed) == (RATES_HZ[kind], 0)
    assert record.ending is not None
    assert (record.ending.by, record.ending.reason) == (Party.PHONE, "stop: hung up")


def test_each_message_goes_out_as_its_carrier_writes_it() -> None:
    parcel, *_ = run(call(Parcel, "5"))
    assert parcel.binary_messages == 0
    assert parcel.marks > 0
    stream, *_ = run(call(Stream, "5"))
    assert stream.binary_messages > 50
    assert (stream.text_messages, stream.marks) == (0, 0)


@KINDS
def test_the_last_words_are_waited_for_with_marks_or_without(kind: type[DummyCarrier]) -> None:
    began_s = 3.0
    phone, record, _ = run(call(kind, "0"))
    assert record.ending is not None
    assert record.ending.reason == "ended by the key 0"
    assert phone.close_code == 1000
    assert began_s < record.ended_s - record.opened_s < began_s + LAST_WORDS_S
    heard = phone.player.heard
    assert heard[round(began_s * RATES_HZ[kind]) :].any(), "the sentence goes on after the key"


def test_only_a_flow_that_goes_on_can_hand_the_call_over() -> None:
    handovers = HandOvers(time.monotonic)
    _, record, notes = run(call(Parcel, "9", handovers))
    assert record.ending is not None and record.ending.reason == "handed over by the key 9"
    assert (handovers.find("C1"), notes) == (NUMBERS, [])

    handovers = HandOvers(time.monotonic)
    _, record, notes = run(call(Stream, "9", handovers))
    assert record.ending is not None and record.ending.reason == "ended by the key 9"
    assert handovers.find("C1") is None
    assert notes == ["Stream hangs up when we close, so nobody can take the call over"]


def test_calls_of_several_carriers_go_on_side_by_side() -> None:
    async def main() -> list[DummyPhone]:
        async with bridge(slots=2, carriers=CARRIERS) as b:
            phones = [phone_of(Parcel), phone_of(Stream)]
            await asyncio.gather(*(phone.call(b.listener.port) for phone in phones))
            return phones

    for phone in run(main()):
        assert listen(phone.said, phone.player.heard, phone.player.rate_hz).correlation > 0.85
