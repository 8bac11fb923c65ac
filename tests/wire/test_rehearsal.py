"""The rehearsal engine: as hard to please as a real one, and a parrot that hears exactly."""

from __future__ import annotations

import asyncio
import re
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sphn
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pxbridge import chat_wire, websocket
from pxbridge.audio import OggOpusReader, OggOpusWriter, OpusDecoder, OpusEncoder
from pxbridge.errors import InputError
from pxbridge.simulation import faults, strict_ogg
from pxbridge.simulation.faults import Fault, Faulty
from pxbridge.simulation.parrot import BLOCK_SAMPLES, Parrot, Pcm, Speech, greeting, whole_blocks
from pxbridge.simulation.rehearsal import Mode, Rehearsal
from pxbridge.simulation.strict_ogg import PageReader, PageWriter, packet_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VECTORS = Path(__file__).parent.parent / "vectors"
PATIENCE_S = 10.0  # only ever spent by a test that fails
A_MOMENT_S = 0.05  # long enough for what must not come to have come


def speech() -> Pcm:
    """A spoken sentence, 24 kHz."""
    with wave.open(str(VECTORS / "speech_24k.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    return whole_blocks(samples.astype(np.float32) / np.float32(32768))


def quiet(blocks: int, level_dbfs: float = -90.0) -> Pcm:
    """The noise of a line."""
    noise = np.random.default_rng(blocks).normal(size=blocks * BLOCK_SAMPLES)
    return (noise * 10 ** (level_dbfs / 20)).astype(np.float32)


def voice(blocks: int) -> Pcm:
    """A steady vowel."""
    time_s = np.arange(blocks * BLOCK_SAMPLES) / 24000
    return (0.2 * np.sin(2 * np.pi * 180 * time_s)).astype(np.float32)


# The parrot, without a server.

SHORT_GREETING = Speech(
    whole_blocks(np.full(2 * BLOCK_SAMPLES, 0.1, dtype=np.float32)), ((0, " Hi"), (1, " there."))
)


def converse(parrot: Parrot, *heard: Pcm) -> tuple[Pcm, list[str]]:
    """Returns what a parrot says to this, and its words."""
    pcm = np.concatenate(heard)
    said = [parrot.step(pcm[at : at + BLOCK_SAMPLES]) for at in range(0, len(pcm), BLOCK_SAMPLES)]
    return np.concatenate([block.pcm for block in said]), [block.text for block in said if block.text]


def has(said: Pcm, utterance: Pcm) -> bool:
    """Whether a stretch of speech is in there, to the sample."""
    start = np.flatnonzero(said == utterance[0])
    return any(np.array_equal(said[at : at + len(utterance)], utterance) for at in start)


def blocks_with_sound(said: Pcm) -> list[int]:
    return [int(n) for n in np.flatnonzero(np.abs(said.reshape(-1, BLOCK_SAMPLES)).max(axis=1) > 0)]


def test_the_greeting_says_plainly_what_it_is() -> None:
    said, words = converse(Parrot(greeting()), quiet(110))
    assert "".join(words) == (
        " Hello, this is the pxbridge rehearsal engine. There is no model here."
        " Say something, and when you pause, I will repeat it."
    )
    assert np.array_equal(said[: len(greeting().pcm)], greeting().pcm)
    assert -24 < 10 * np.log10(np.mean(greeting().pcm ** 2)) < -20


def test_the_words_of_the_greeting_come_where_they_are_spoken() -> None:
    parrot = Parrot(greeting())
    at = {parrot.step(quiet(1)).text: block for block in range(105)}
    sound = blocks_with_sound(np.where(np.abs(greeting().pcm) > 0.02, 1, 0).astype(np.float32))
    assert at[" Hello,"] == pytest.approx(sound[0], abs=1)
    assert at[" it."] == pytest.approx(sound[-1], abs=4)


@pytest.mark.parametrize("line_dbfs", [-90.0, -60.0, -45.0])
def test_what_the_caller_says_is_repeated_to_the_sample(line_dbfs: float) -> None:
    heard = speech()
    heard = heard + quiet(len(heard) // BLOCK_SAMPLES, line_dbfs)
    said, words = converse(Parrot(SHORT_GREETING), quiet(5, line_dbfs), heard, quiet(80, line_dbfs))
    loud = np.flatnonzero(np.abs(speech()) > 0.05)
    assert has(said, heard[loud[0] : loud[-1]])
    assert words[:2] == [" Hi", " there."]
    assert words[2].startswith(" [repeats ")


def test_the_answer_comes_about_seven_tenths_of_a_second_after_the_last_word() -> None:
    said, _ = converse(Parrot(SHORT_GREETING), quiet(10), voice(10), quiet(60))
    assert blocks_with_sound(said)[2] == 10 + 10 + 8


def test_two_sentences_with_a_breath_between_them_are_one_utterance() -> None:
    sentences = np.concatenate([voice(5), quiet(6), voice(5)])
    said, words = converse(Parrot(SHORT_GREETING), quiet(10), sentences, quiet(40))
    assert has(said, sentences)
    assert len(words) == 3


def test_a_click_is_not_repeated() -> None:
    click = quiet(1)
    click[500:520] = 0.9
    _, words = converse(Parrot(SHORT_GREETING), quiet(10), click, quiet(40))
    assert len(words) == 2


@pytest.mark.parametrize("line_dbfs", [-60.0, -50.0, -40.0])
def test_a_noisy_line_is_not_taken_for_speech(line_dbfs: float) -> None:
    _, words = converse(Parrot(SHORT_GREETING), quiet(1000, line_dbfs))
    assert len(words) == 2


def test_a_caller_who_interrupts_is_let_speak_within_two_blocks() -> None:
    parrot = Parrot(SHORT_GREETING)
    converse(parrot, quiet(10), voice(30), quiet(9))
    said, _ = converse(parrot, quiet(5), voice(10))
    assert blocks_with_sound(said)[-1] == 5 + 1
    last = said.reshape(-1, BLOCK_SAMPLES)[6]
    assert np.abs(last[-BLOCK_SAMPLES // 2 :]).max() == 0
    assert np.abs(np.diff(last)).max() < 0.02, "it clicks"


def test_what_the_caller_interrupts_with_is_repeated_next() -> None:
    parrot = Parrot(SHORT_GREETING)
    converse(parrot, quiet(10), voice(30), quiet(12))
    interruption = speech()
    said, words = converse(parrot, interruption, quiet(80))
    loud = np.flatnonzero(np.abs(interruption) > 0.05)
    assert has(said, interruption[loud[0] : loud[-1]])
    assert len(words) == 1


def test_what_is_said_during_the_greeting_is_repeated_after_it() -> None:
    said, words = converse(Parrot(greeting()), quiet(10), voice(10), quiet(150))
    assert np.array_equal(said[: len(greeting().pcm)], greeting().pcm)
    assert has(said[len(greeting().pcm) :], voice(10))
    assert words[-1].startswith(" [repeats ")


def test_of_a_very_long_utterance_the_end_is_repeated() -> None:
    said, _ = converse(Parrot(SHORT_GREETING), quiet(10), voice(1000), quiet(400))
    assert 25 * 24000 < np.count_nonzero(np.abs(said) > 0.01) <= 30 * 24000


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([quiet, voice]), st.integers(1, 40)), min_size=1, max_size=12))
def test_whatever_is_said_a_step_says_a_block(script: Sequence[tuple[Callable[[int], Pcm], int]]) -> None:
    parrot = Parrot(SHORT_GREETING)
    heard = np.concatenate([sound(blocks) for sound, blocks in script])
    said, _ = converse(parrot, heard)
    assert len(said) == len(heard)
    assert np.isfinite(said).all()
    assert np.abs(said).max() <= 0.21


# Its Ogg, which is as strict as sphn 0.1.


def our_stream(blocks: int, frame_ms: float = 20.0) -> bytes:
    writer = OggOpusWriter(24000, frame_ms=frame_ms)
    return writer.headers() + writer.write(voice(blocks))


@given(st.lists(st.integers(1, 400), max_size=40))
def test_a_stream_is_read_however_it_is_cut(cuts: list[int]) -> None:
    stream, reader = our_stream(4), PageReader()
    packets, at = [], 0
    for length in [*cuts, len(stream)]:
        packets += reader.read(stream[at : at + length])
        at += length
    assert packets == PageReader().read(stream)
    assert reader.pages == len(packets) == 16
    assert sum(packet_samples(packet) for packet in packets) == 4 * BLOCK_SAMPLES


@pytest.mark.parametrize("frame_ms", [2.5, 5, 10, 20, 40, 60, 80, 120])
@pytest.mark.parametrize("application", ["voip", "audio", "lowdelay"])
def test_the_length_of_a_packet_is_in_its_first_bytes(application: Any, frame_ms: float) -> None:
    encoder = OpusEncoder(24000, application=application, frame_ms=frame_ms)
    packet = encoder.encode(voice(2)[: encoder.frame_samples])
    assert packet_samples(packet) == encoder.frame_samples == len(OpusDecoder(24000).decode(packet))


def test_an_independent_reader_takes_its_pages() -> None:
    pages, encoder = PageWriter(7), OpusEncoder(24000, application="voip", frame_ms=80)
    reader = sphn.OpusStreamReader(24000)
    for page in pages.headers():
        reader.append_bytes(page)
    heard = [reader.append_bytes(pages.page(encoder.encode(voice(1)), BLOCK_SAMPLES)) for _ in range(20)]
    assert sum(len(pcm) for pcm in heard) == 20 * BLOCK_SAMPLES


def damaged(stream: bytes) -> bytes:
    return stream[:-1] + bytes([stream[-1] ^ 1])


def headless(stream: bytes) -> bytes:
    return stream[stream.index(b"OggS", stream.index(b"OpusTags")) :]


EMPTY = PageWriter(1)


@pytest.mark.parametrize(
    ("harm", "because"),
    [
        (headless, "without header pages"),
        (damaged, "wrong checksum"),
        (lambda stream: stream + stream, "second header"),
        (lambda stream: stream + PageWriter(1).page(b"x", 480), "without header pages"),
        (lambda _: b"".join(EMPTY.headers()) + EMPTY.page(b"", 0), "an empty packet"),
    ],
)
def test_it_goes_deaf_where_a_real_engine_does(harm: Callable[[bytes], bytes], because: str) -> None:
    reader = PageReader()
    before = reader.read(harm(our_stream(2)))
    assert because in str(reader.deaf_because)
    assert reader.read(our_stream(2)) == []
    assert len(before) <= 8


def test_it_steps_over_garbage_between_pages_and_takes_a_new_stream() -> None:
    reader = PageReader()
    assert len(reader.read(our_stream(1) + b"\x00Ogg garbage" + our_stream(1))) == 8
    assert reader.deaf_because is None


@given(st.binary(max_size=300))
def test_whatever_comes_its_reader_does_not_raise(junk: bytes) -> None:
    reader = PageReader()
    reader.read(our_stream(1)[:-20] + junk)
    reader.read(b"OggS" + junk)


# The server.


def rehearsal(**settings: Any) -> Rehearsal:
    return Rehearsal(**{"prompt_s": 0.0, "step_ms": 0.0, "mode": Mode.CANNED, **settings})


def client(engine: Rehearsal, voice_prompt: str = "NATF0.pt") -> connect:
    return connect(chat_wire.chat_url(engine.url, voice_prompt, "You are Ada."), compression=None)


async def messages(connection: ClientConnection, kind: chat_wire.Kind, count: int) -> list[bytes]:
    """The payloads of the next `count` messages of a kind."""
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            message = await connection.recv()
            assert isinstance(message, bytes)
            if message[0] == kind:
                found.append(message[1:])
    return found


async def is_silent(connection: ClientConnection) -> bool:
    """Whether nothing comes for a moment."""
    try:
        async with asyncio.timeout(A_MOMENT_S):
            await connection.recv()
    except TimeoutError:
        return True
    return False


async def test_a_session_begins_with_the_handshake_and_two_header_pages_each_in_a_message_of_its_own() -> (
    None
):
    async with rehearsal() as engine, client(engine) as phone:
        assert await phone.recv() == chat_wire.handshake()
        head, tags = await messages(phone, chat_wire.Kind.AUDIO, 2)
        assert head.startswith(b"OggS")
        assert b"OpusHead" in head
        assert tags.startswith(b"OggS")
        assert b"OpusTags" in tags
        assert await is_silent(phone)


@pytest.mark.parametrize("mode", list(Mode))
async def test_the_caller_is_the_clock_80_ms_in_80_ms_out(mode: Mode) -> None:
    async with rehearsal(mode=mode) as engine, client(engine) as phone:
        await messages(phone, chat_wire.Kind.AUDIO, 2)
        writer = OggOpusWriter(24000, frame_ms=20)
        await phone.send(chat_wire.audio(writer.headers() + writer.write(voice(1)[:1440])))
        assert await is_silent(phone), "60 ms are no step"
        await phone.send(chat_wire.audio(writer.write(voice(1)[:480])))
        (page,) = await messages(phone, chat_wire.Kind.AUDIO, 1)
        reader = PageReader()
        (packet,) = reader.read(b"".join(PageWriter(int.from_bytes(page[14:18], "little")).headers()) + page)
        assert packet_samples(packet) == BLOCK_SAMPLES
        await phone.send(chat_wire.audio(writer.write(voice(25))))
        await messages(phone, chat_wire.Kind.AUDIO, 25)
        await phone.send(chat_wire.audio(writer.write(voice(1)[:1440])))
        while not await is_silent(phone):
            pass  # text may be left


async def test_a_backlog_is_worked_off_one_step_after_another() -> None:
    async with rehearsal(step_ms=5.0) as engine, client(engine) as phone:
        await messages(phone, chat_wire.Kind.AUDIO, 2)
        began = asyncio.get_running_loop().time()
        await phone.send(chat_wire.audio(our_stream(20)))
        await messages(phone, chat_wire.Kind.AUDIO, 20)
        assert asyncio.get_running_loop().time() - began >= 20 * 0.005


@pytest.mark.parametrize(
    "bitrate_bps", [24_000, 96_000, 300_000]
)  # frames of less and of more than 252 bytes
@given(count=st.integers(min_value=1, max_value=6))
def test_joined_packets_sound_as_they_did_apart(bitrate_bps: int, count: int) -> None:
    encoder = OpusEncoder(bitrate_bps=bitrate_bps)
    packets = [encoder.encode(block) for block in np.split(voice(6).reshape(-1)[: count * 480], count)]
    joined = strict_ogg.join_packets(packets)
    assert joined is not None
    assert strict_ogg.packet_samples(joined) == count * 480
    apart, together = OpusDecoder(), OpusDecoder()
    expected = np.concatenate([apart.decode(packet) for packet in packets])
    np.testing.assert_array_equal(together.decode(joined), expected)


def test_packets_that_cannot_be_one_are_left_apart() -> None:
    sound = voice(6).reshape(-1)
    short, long = OpusEncoder(frame_ms=20.0), OpusEncoder(frame_ms=80.0)
    assert strict_ogg.join_packets([long.encode(sound[:1920])] * 2) is None
    assert strict_ogg.join_packets([short.encode(sound[:480])] * 7) is None
    assert strict_ogg.join_packets([short.encode(sound[:480]), long.encode(sound[:1920])]) is None


async def test_an_echo_is_what_was_said() -> None:
    async with rehearsal(mode=Mode.ECHO) as engine, client(engine) as phone:
        writer, reader = OggOpusWriter(24000), OggOpusReader(24000)
        assert await phone.recv() == chat_wire.handshake()
        await phone.send(chat_wire.audio(writer.headers() + writer.write(speech())))
        blocks = len(speech()) // BLOCK_SAMPLES
        heard = reader.read(b"".join(await messages(phone, chat_wire.Kind.AUDIO, 2 + blocks)))
        lags = np.correlate(heard[24000:72000], speech()[24000:71000], mode="valid")
        lag = int(np.argmax(lags))
        matching = np.corrcoef(heard[24000 + lag : 71000 + lag], speech()[24000:71000])[0, 1]
        assert lag < 0.012 * 24000, "more than both codecs' look-ahead"
        assert matching > 0.95


async def test_what_comes_before_the_handshake_is_thrown_away_and_leaves_it_deaf() -> None:
    may_begin = asyncio.Event()

    class WaitsForUs(Fault):
        async def while_prompting(self, session: Faulty) -> None:
            await may_begin.wait()

    async with rehearsal(faults=[WaitsForUs()]) as engine, client(engine) as phone:
        stream = our_stream(10)
        await phone.send(chat_wire.audio(stream[:-300]))
        await (await phone.ping())  # so that it has been read
        may_begin.set()
        await messages(phone, chat_wire.Kind.AUDIO, 2)
        await phone.send(chat_wire.audio(stream[-300:] + headless(our_stream(10))))
        assert await is_silent(phone)


async def test_a_client_that_answers_the_handshake_at_once_is_heard() -> None:
    stream = our_stream(4)
    async with rehearsal(slots=20) as engine:

        async def is_heard() -> None:
            heard = asyncio.Event()
            came = 0
            connection = await websocket.connect(chat_wire.chat_url(engine.url, "NATF0.pt", "You are Ada."))

            def answer(message: bytes, is_text: bool) -> None:
                nonlocal came
                if message == chat_wire.handshake():
                    connection.send(chat_wire.audio(stream))
                came += message[0] == chat_wire.Kind.AUDIO
                if came == 2 + 4:
                    heard.set()

            connection.on_message = answer
            async with asyncio.timeout(PATIENCE_S):
                await heard.wait()
            connection.close()
            await connection.wait_closed()

        await asyncio.gather(*(is_heard() for _ in range(20)))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "voice_prompt=NATF0.pt",
        "text_prompt=hi",
        "voice_prompt=NATF0.pt&text_prompt=",
        "voice_prompt=NOBODY.pt&text_prompt=hi",
        "voice_prompt=NATF0.pt&text_prompt=hi&seed=1",
    ],
)
async def test_wrong_prompts_get_the_upgrade_and_then_an_abnormal_close(query: str) -> None:
    async with rehearsal() as engine, connect(f"{engine.url}?{query}", compression=None) as phone:
        with pytest.raises(ConnectionClosed) as closed:
            await phone.recv()
        assert closed.value.rcvd is None


async def test_a_voice_of_ones_own_is_taken() -> None:
    async with rehearsal() as engine, client(engine, "grandmother.wav") as phone:
        assert await phone.recv() == chat_wire.handshake()


async def test_nothing_else_is_served() -> None:
    async with rehearsal() as engine:
        with pytest.raises(InvalidStatus, match="404"):
            await connect(engine.url.replace("/api/chat", "/metrics"))


async def test_a_second_client_waits_without_a_word_until_the_first_is_gone() -> None:
    async with rehearsal() as engine, client(engine) as first:
        assert await first.recv() == chat_wire.handshake()
        async with client(engine) as second, client(engine) as third:
            assert await is_silent(second)
            await second.close()
            await first.close()
            assert await third.recv() == chat_wire.handshake(), "the one who hung up must not hold the place"
    assert engine.conversations == 2


async def test_two_slots_take_two_conversations() -> None:
    async with rehearsal(slots=2) as engine, client(engine) as first, client(engine) as second:
        assert await first.recv() == await second.recv() == chat_wire.handshake()


async def test_a_client_who_leaves_during_the_prompts_frees_the_slot() -> None:
    async with rehearsal(prompt_s=3600.0) as engine:
        async with client(engine) as hasty:
            await hasty.send(chat_wire.audio(b"hello?"))
        engine.prompt_s = 0.0
        async with client(engine) as patient, asyncio.timeout(PATIENCE_S):
            assert await patient.recv() == chat_wire.handshake()


async def test_a_client_who_is_cut_off_frees_the_slot() -> None:
    async with rehearsal() as engine:
        async with client(engine) as doomed:
            await doomed.recv()
            doomed.transport.abort()
        async with client(engine) as next_one, asyncio.timeout(PATIENCE_S):
            assert await next_one.recv() == chat_wire.handshake()


async def test_nothing_is_left_behind() -> None:
    async with rehearsal(slots=20) as engine:
        for _ in range(5):
            phones = [await client(engine) for _ in range(20)]
            for phone in phones:
                await phone.recv()
                await phone.send(chat_wire.audio(our_stream(3)))
            for phone in phones:
                await phone.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (engine.clients, engine.conversing, engine.conversations) == (0, 0, 100)


async def test_closing_the_engine_ends_sessions_in_every_phase() -> None:
    async with rehearsal() as engine:
        live, waiting = await client(engine), await client(engine)
        await live.recv()
    for phone in (live, waiting):
        await asyncio.wait_for(phone.wait_closed(), PATIENCE_S)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Its faults, as a client sees them.


async def heard_with(fault: Fault, steps: int) -> list[bytes]:
    """All messages of a session that is closed after so many steps, under a fault."""
    async with rehearsal(faults=[fault, faults.Closes(steps)]) as engine, client(engine) as phone:
        received: list[bytes] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    message = await phone.recv()
                    assert isinstance(message, bytes)
                    received.append(message)
                    if message == chat_wire.handshake():
                        await phone.send(chat_wire.audio(our_stream(steps + 1)))
        except ConnectionClosed:
            return received


def audio_of(received: list[bytes]) -> list[bytes]:
    return [message[1:] for message in received if message[:1] == b"\x01"]


@pytest.mark.parametrize(("fault", "code"), [(faults.Dies(4), 1006), (faults.Closes(4, 1012), 1012)])
async def test_it_ends_a_session_after_the_scripted_steps(fault: Fault, code: int) -> None:
    async with rehearsal(faults=[fault]) as engine, client(engine) as phone:
        await phone.recv()
        await phone.send(chat_wire.audio(our_stream(10)))
        await messages(phone, chat_wire.Kind.AUDIO, 2 + 4)
        with pytest.raises(ConnectionClosed):
            await messages(phone, chat_wire.Kind.AUDIO, 1)
        assert phone.close_code == code


async def test_it_hangs_after_the_scripted_steps_and_stays_connected() -> None:
    async with rehearsal(faults=[faults.Hangs(4)]) as engine, client(engine) as phone:
        await phone.recv()
        await phone.send(chat_wire.audio(our_stream(10)))
        await messages(phone, chat_wire.Kind.AUDIO, 2 + 4)
        while not await is_silent(phone):
            pass  # text may be left
        await (await phone.ping())


async def test_a_stall_holds_everything_back_and_loses_nothing() -> None:
    received = await heard_with(faults.Stalls(after_steps=4, for_s=0.02), 10)
    assert len(audio_of(received)) == 2 + 10


async def test_a_flood_is_a_flood() -> None:
    received = await heard_with(faults.Floods(after_steps=1, times=500), 2)
    assert len(audio_of(received)) == 2 + 1 + 500


async def test_pages_are_lost_cut_and_damaged_where_the_script_says() -> None:
    whole = await heard_with(Fault(), 10)
    lost = await heard_with(faults.LosesPages(every_steps=5), 10)
    halved = await heard_with(faults.TruncatesPages(every_steps=5), 10)
    harmed = await heard_with(faults.DamagesPages(every_steps=5), 10)
    garbled = await heard_with(faults.SendsGarbage(every_steps=5, garbage=b"garbage"), 10)
    assert len(audio_of(lost)) == len(audio_of(whole)) - 2
    assert [len(page) for page in audio_of(halved)[:6]] == [len(page) for page in audio_of(whole)[:6]]
    assert len(audio_of(halved)[6]) < len(audio_of(whole)[6])
    reader = PageReader()
    reader.read(b"".join(audio_of(harmed)))
    assert reader.deaf_because == "a page with a wrong checksum"
    assert audio_of(garbled).count(b"garbage") == 2


async def test_pages_split_over_messages_are_the_same_stream() -> None:
    received = await heard_with(faults.SplitsPages(bytes_each=50), 10)
    pieces = audio_of(received)
    assert max(map(len, pieces)) == 50
    reader = PageReader()
    assert len(reader.read(b"".join(pieces))) == 10
    assert reader.deaf_because is None


async def test_an_error_is_reported_at_its_step_and_the_session_goes_on() -> None:
    received = await heard_with(faults.ReportsError(after_steps=3, message="hot"), 5)
    assert received.count(chat_wire.error("hot")) == 1
    assert len(audio_of(received)) == 2 + 5


def test_faults_can_be_written_on_a_command_line() -> None:
    assert faults.parse_fault("StaysSilent") == faults.StaysSilent()
    assert faults.parse_fault("Floods:after_steps=20,times=5") == faults.Floods(20, 5)
    assert faults.parse_fault("Stalls:for_s=2") == faults.Stalls(for_s=2.0)
    assert faults.parse_fault("Closes:reason=bye") == faults.Closes(reason="bye")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Burns", "no such fault: 'Burns'; the faults are RefusesUpgrade"),
        ("Hangs:when=3", "Hangs has no field 'when'"),
        ("Hangs:after_steps=soon", "Hangs: 'soon' is not a number, which after_steps needs"),
        ("SendsGarbage:garbage=x", "SendsGarbage has no field 'garbage'"),
    ],
)
def test_a_fault_that_is_written_wrongly_is_named(text: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        faults.parse_fault(text)
