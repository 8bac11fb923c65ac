"""What the path itself does to a voice: through everything, beside the same through Opus alone.

`python benches/quality.py [--pictures DIR]`. A real voice goes through the undisturbed path (Uplink, an
engine that echoes, Downlink), and through nothing but the same codecs with ideal resampling between them.
Both are compared with what was said, in the band that the line carries: where the two figures agree, the path
has lost nothing. (Speech that is made shorter: `cargo test --release --test timescale -- --nocapture`.)
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pxbridge.audio import Downlink, OggOpusReader, OggOpusWriter, OpusDecoder, OpusEncoder, Uplink
from pxbridge.personaplex.container import PageWriter
from pxbridge.wav import read_wav, resample, to_pcm

Signal = NDArray[np.float64]

SPEECH = Path(__file__).parents[1] / "tests" / "vectors" / "speech_24k.wav"
ENGINE_HZ = 24_000
BLOCK = 1920
CHUNK_S = 0.02
BAND = (100.0, 0.85)  # from 100 Hz to this share of half the line's rate: above lies every filter's edge
ACTIVE_DB = 30.0
EDGE = 4000  # samples at either end that are left out: filters, fades and the delay live there
FINE = 16  # steps in which a fraction of a sample is looked for
CLAMP_DB = (-10.0, 60.0)


def engine_encoder() -> OpusEncoder:
    """As `sphn` encodes."""
    return OpusEncoder(ENGINE_HZ, application="voip", bitrate_bps=24_750, complexity=9, frame_ms=80)


def through_path(pcm: NDArray[np.int16], rate_hz: int) -> tuple[Signal, Signal]:
    """What the engine hears (24 kHz), and what the caller hears of it."""
    uplink, downlink = Uplink(rate_hz, gate_ms=0), Downlink(rate_hz, stream_sid="S")
    reader, encoder, pages = OggOpusReader(ENGINE_HZ), engine_encoder(), PageWriter(1)
    engine: list[NDArray[np.float32]] = []
    waiting = np.zeros(0, np.float32)
    caller: list[NDArray[np.int16]] = []

    def take(messages: list[bytes]) -> None:
        for message in messages:
            event = json.loads(message)
            if event["event"] == "media":
                caller.append(np.frombuffer(base64.b64decode(event["media"]["payload"]), "<i2"))

    reader.read(uplink.open(0.0))
    for header in pages.headers():
        downlink.receive(header, 0.0, uplink)
    chunk = round(CHUNK_S * rate_hz)
    for n in range(len(pcm) // chunk):
        now_s = (n + 1) * CHUNK_S
        if downlink.wake_s <= now_s:
            take(downlink.poll(now_s))
        payload = base64.b64encode(pcm[n * chunk : (n + 1) * chunk].tobytes()).decode()
        ogg = uplink.receive(json.dumps({"event": "media", "media": {"payload": payload}}).encode(), now_s)
        heard = reader.read(ogg or b"")
        engine.append(heard)
        waiting = np.concatenate([waiting, heard])
        if len(waiting) >= BLOCK:
            page = pages.page(encoder.encode(waiting[:BLOCK]), BLOCK)
            waiting = waiting[BLOCK:]
            take(downlink.receive(page, now_s, uplink))
    return np.concatenate(engine).astype(float), np.concatenate(caller) / 32768.0


def through_opus(pcm: NDArray[np.int16], rate_hz: int) -> tuple[Signal, Signal]:
    """The same by nothing but the codecs and ideal resampling."""
    writer, reader = OggOpusWriter(rate_hz), OggOpusReader(ENGINE_HZ)
    engine = reader.read(writer.headers() + writer.write(pcm) + writer.finish())
    encoder, decoder = engine_encoder(), OpusDecoder(ENGINE_HZ)
    blocks = engine[: len(engine) // BLOCK * BLOCK].reshape(-1, BLOCK)
    back = np.concatenate([decoder.decode(encoder.encode(block)) for block in blocks])
    return engine.astype(float), resample(back, ENGINE_HZ, rate_hz).astype(float)


def aligned(said: Signal, heard: Signal) -> tuple[Signal, Signal]:
    """Both without the delay between them, to a fraction of a sample."""
    size = 1 << (len(said) + len(heard)).bit_length()
    spectrum = np.fft.rfft(heard, size)
    cross = spectrum * np.conj(np.fft.rfft(said, size))
    fine = np.fft.irfft(cross, size * FINE)
    lag = int(np.argmax(fine)) / FINE
    lag -= size if lag > size / 2 else 0
    turned = spectrum * np.exp(2j * np.pi * np.fft.rfftfreq(size) * lag)
    shifted = np.fft.irfft(turned, size)[: len(said)]
    usable = slice(EDGE, min(len(said), len(heard)) - EDGE)
    return said[usable], shifted[usable]


def in_band(x: Signal, rate_hz: int, line_hz: int) -> Signal:
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    spectrum[(hz < BAND[0]) | (hz > BAND[1] * line_hz / 2)] = 0
    kept: Signal = np.fft.irfft(spectrum, len(x))
    return kept


def measures(said: Signal, heard: Signal, rate_hz: int, line_hz: int) -> tuple[float, float]:
    """Segmental SNR and log-spectral distance over the frames that hold speech, dB."""
    said, heard = aligned(said, heard)
    said, heard = in_band(said, rate_hz, line_hz), in_band(heard, rate_hz, line_hz)
    frame = round(0.02 * rate_hz)
    a, b = (x[: len(x) // frame * frame].reshape(-1, frame) for x in (said, heard))
    power = np.mean(a**2, axis=1)
    active = power > power.max() * 10 ** (-ACTIVE_DB / 10)
    a, b, power = a[active], b[active], power[active]
    snr = 10 * np.log10(power / np.maximum(np.mean((a - b) ** 2, axis=1), 1e-12))
    hz = np.fft.rfftfreq(frame, 1 / rate_hz)
    band = (hz >= BAND[0]) & (hz <= BAND[1] * line_hz / 2)
    window = np.hanning(frame)
    spectra = [20 * np.log10(np.abs(np.fft.rfft(x * window))[:, band] + 1e-3) for x in (a, b)]
    distance = np.sqrt(np.mean((spectra[0] - spectra[1]) ** 2, axis=1))
    return float(np.mean(np.clip(snr, *CLAMP_DB))), float(np.mean(distance))


def draw(file: Path, sounds: dict[str, Signal], rate_hz: int) -> None:
    """Spectrograms of the same seconds below each other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(sounds), 1, figsize=(12, 3 * len(sounds)), layout="constrained")
    for axis, (name, sound) in zip(np.atleast_1d(axes), sounds.items(), strict=True):
        axis.specgram(sound + 1e-9, NFFT=256, Fs=rate_hz, noverlap=192, vmin=-140, vmax=-30)
        axis.set_title(name)
    figure.savefig(file, dpi=80)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder for spectrograms")
    pictures: Path | None = parser.parse_args().pictures
    speech = read_wav(SPEECH)
    print(
        "| line | heard by | seg SNR, dB: path | Opus alone | log-spectral distance, dB: path | Opus alone |"
    )
    print("|---|---|--:|--:|--:|--:|")
    for line_hz in (8000, 16000, 24000):
        pcm = to_pcm(resample(speech.samples, speech.rate_hz, line_hz))
        said = pcm / 32768.0
        said_to_engine = resample(said.astype(np.float32), line_hz, ENGINE_HZ).astype(float)
        path, alone = through_path(pcm, line_hz), through_opus(pcm, line_hz)
        for who, reference, rate_hz, n in (
            ("engine", said_to_engine, ENGINE_HZ, 0),
            ("caller", said, line_hz, 1),
        ):
            ours, theirs = (measures(reference, each[n], rate_hz, line_hz) for each in (path, alone))
            print(
                f"| {line_hz // 1000} kHz | {who} | {ours[0]:.1f} | {theirs[0]:.1f} "
                f"| {ours[1]:.2f} | {theirs[1]:.2f} |"
            )
        if pictures is not None:
            heard = {name: aligned(said, each[1])[1] for name, each in (("path", path), ("Opus", alone))}
            draw(pictures / f"quality_{line_hz}.png", {"said": aligned(said, said)[0], **heard}, line_hz)


if __name__ == "__main__":
    main()
