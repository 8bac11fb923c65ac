"""What both ends of a call hear, beside the same speech through nothing but the codecs.

    python benches/quality.py [--pictures DIR]

1. Real speech through the undisturbed path at each rate, and through Opus alone.
2. Speech through whole calls on bad networks (`simulated_call.py`), measured by `speech_metrics.py`. A
   measure that is not installed leaves its column empty.
3. Speech made shorter and longer, the noise in long gaps, and the bridge's own sounds.

Time is simulated, so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pxbridge.audio import OggOpusReader, OggOpusWriter, OpusDecoder
from pxbridge.calls import announcements
from pxbridge.wav import read_wav, resample, to_pcm
from simulated_call import ENGINE_HZ, FRAME, TwoWay, engine_encoder
from speech_metrics import LINE_HZ, Signal, clicks, dns_mos, pesq_mos, plc_mos, word_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "tests" / "vectors" / "speech_24k.wav"
CHUNK_MS = 20
BAND = (100.0, 0.85)  # from 100 Hz to this share of half the line's rate: filters' edges lie above
ACTIVE_DB = 30.0
EDGE = 4000  # samples left out at either end, where filters start, fades are and the delay shows
FINE = 16  # the delay is found to 1/FINE of a sample
CLAMP_DB = (-10.0, 60.0)


def through_path(pcm: NDArray[np.int16], rate_hz: int) -> tuple[Signal, Signal]:
    """What the engine hears (24 kHz), and what the caller hears of it when it is sent back."""
    silence = np.zeros(0, np.float32)
    engine = TwoWay(pcm, silence, rate_hz, CHUNK_MS).run().model_heard
    return engine.astype(float), TwoWay(pcm, engine, rate_hz, CHUNK_MS).run().caller_heard.astype(float)


def through_opus(pcm: NDArray[np.int16], rate_hz: int) -> tuple[Signal, Signal]:
    """The same by nothing but the codecs and ideal resampling."""
    writer, reader = OggOpusWriter(rate_hz), OggOpusReader(ENGINE_HZ)
    engine = reader.read(writer.headers() + writer.write(pcm) + writer.finish())
    back = engines_opus(engine, ENGINE_HZ)
    return engine.astype(float), resample(back, ENGINE_HZ, rate_hz).astype(float)


def engines_opus(pcm: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """24 kHz through the engine's encoder and a decoder of `rate_hz`."""
    encoder, decoder = engine_encoder(), OpusDecoder(rate_hz)
    blocks = pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)
    return np.concatenate([decoder.decode(encoder.encode(block)) for block in blocks])


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
        with np.errstate(divide="ignore"):  # digital silence is below any scale
            axis.specgram(sound, NFFT=256, Fs=rate_hz, noverlap=192, vmin=-140, vmax=-30)
        axis.set_title(name)
    figure.savefig(file, dpi=80)


WORDS = {
    "human": "can you guarantee that the replacement part will be shipped tomorrow",
    "caller": "hello i am calling to try this line can you tell me what i said",
    "still-waiting": "thank you for waiting you will be connected as soon as a line is free",
    "sorry": "i am sorry we have a technical problem please call again later goodbye",
}
"""The sentences, by a human voice and two synthetic ones."""
AGENT_FIRST = 2
"""The agent begins with another sentence than the caller."""
BETWEEN_S = 0.4
AFTER_S = 2.5
"""Silence at the end, so that late sound is still heard."""
LINE_DBFS, AGENT_DBFS = -58.0, -64.0
"""The background of a telephone line, and of an agent's voice."""

STALLS = "; ".join(f"stall 1.5s at {at}s {{way}}" for at in (3, 8, 13))
NETWORKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("undisturbed", "", {}),
    ("phone's clock 0.2 % fast", "caller", {"phone": "drift +2000ppm"}),
    ("phone's clock 0.2 % slow", "caller", {"phone": "drift -2000ppm"}),
    ("jitter 0-80 ms, both networks", "", {"phone": "jitter 80ms", "engine": "jitter 80ms"}),
    ("the phone stalls for 1.5 s", "model", {"phone": "stall 1.5s at 6.9s up"}),
    ("three times", "model", {"phone": STALLS.format(way="up")}),
    ("the engine stalls for 1.5 s", "caller", {"engine": "stall 1.5s at 7.3s down"}),
    ("three times", "caller", {"engine": STALLS.format(way="down")}),
)
"""What happened, which end notices it (empty: both), and the networks.

The drifts are 20 times those of real clocks (0.01 %), which need minutes before anything must be corrected.
"""
SETTLED = LINE_HZ // 10
"""A call's sound is faded in until then."""
TEMPOS = (0.05, -0.05, 0.29)


@functools.cache
def sentence(name: str) -> NDArray[np.float32]:
    """One of WORDS, at 24 kHz."""
    if name == "human":
        return read_wav(SPEECH).samples
    data = resources.files("pxbridge").joinpath(f"assets/{name}.ogg").read_bytes()
    pcm: NDArray[np.float32] = OggOpusReader(ENGINE_HZ).read(data)
    return pcm


def hiss(samples: int, dbfs: float, seed: int) -> NDArray[np.float32]:
    """Background noise, with less treble than white noise."""
    white = np.random.default_rng(seed).standard_normal(samples + 1)
    noise: NDArray[np.float32] = (white[1:] + 0.5 * white[:-1]).astype(np.float32)
    return noise * np.float32(10 ** (dbfs / 20) / 1.25**0.5)


def talk(first: int, dbfs: float) -> tuple[NDArray[np.float32], list[str]]:
    """All of WORDS from one of them on, at 24 kHz, and as a list."""
    names = list(WORDS)[first:] + list(WORDS)[:first]
    pause = np.zeros(int(BETWEEN_S * ENGINE_HZ), np.float32)
    pieces = [piece for name in names for piece in (sentence(name), pause)]
    voice = np.concatenate([pause, *pieces, np.zeros(int(AFTER_S * ENGINE_HZ), np.float32)])
    return voice + hiss(len(voice), dbfs, first), " ".join(WORDS[name] for name in names).split()


def to_line(pcm: NDArray[np.float32]) -> Signal:
    """24 kHz sound at the line's rate."""
    return np.clip(resample(pcm, ENGINE_HZ, LINE_HZ), -1.0, 1.0).astype(float)


def row(name: str, *cells: object) -> None:
    shown = [
        "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells
    ]
    print("| " + " | ".join([name, *shown]) + " |", flush=True)


class Side(NamedTuple):
    """One end of a call: what the other end said, the same through the codecs alone, and its words."""

    said: Signal
    alone: Signal
    words: list[str]


def judged(name: str, who: str, side: Side, heard: Signal, *, in_time: bool = True) -> None:
    errors = word_errors(side.words, heard)
    row(
        name,
        who,
        pesq_mos(side.said, heard) if in_time else None,
        plc_mos(heard),
        dns_mos(heard),
        None if errors is None else f"{errors:.0%}",
        len(clicks(side.alone, heard)),
    )


def both_ends(call: TwoWay) -> dict[str, Signal]:
    """What was heard at 8 kHz, from the agent's first sound on."""
    begin = round(call.line.stats()["downlink"]["first_audio_us"] * LINE_HZ / 1e6)
    return {"model": to_line(call.model_heard), "caller": call.caller_heard[begin:].astype(float)}


def calls(pictures: Path | None) -> None:
    """What both ends hear of calls on bad networks."""
    caller, caller_words = talk(0, LINE_DBFS)
    agent, agent_words = talk(AGENT_FIRST, AGENT_DBFS)
    said = to_pcm(resample(caller, ENGINE_HZ, LINE_HZ))
    writer, reader = OggOpusWriter(LINE_HZ), OggOpusReader(ENGINE_HZ)
    to_model = to_line(reader.read(writer.headers() + writer.write(said) + writer.finish()))
    to_caller = engines_opus(agent, LINE_HZ).astype(float)
    straight = both_ends(TwoWay(said, agent).run())
    sides = {
        "model": Side(said / 32768.0, to_model[: len(straight["model"])], caller_words),
        "caller": Side(to_line(agent), to_caller[: len(straight["caller"])], agent_words),
    }
    for who, side in sides.items():
        apart = np.abs(straight[who] - side.alone)[SETTLED:].max() * 32768
        print(f"\nUndisturbed, what the {who} hears is Opus alone to within {apart:.1f} steps of 16 bits.")
    print("\n| what happened | heard by | PESQ | PLCMOS | DNSMOS | wrong words | clicks |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for who, side in sides.items():
        judged("nothing but Opus", who, side, side.alone)
    for name, whom, networks in NETWORKS:
        heard = both_ends(TwoWay(said, agent, **networks).run())
        for who, side in sides.items():
            if whom in ("", who):
                judged(name, who, side, heard[who], in_time="stall" not in str(networks))
        if pictures is not None:
            draw(pictures / f"call_{'_'.join(name.split())}.png", heard, LINE_HZ)
    tempos(sides["model"])


def tempos(side: Side) -> None:
    """The time scaler over all of it, speech and pauses alike."""
    build = ["cargo", "build", "-q", "--release", "-p", "pxbridge-core", "--example", "tempo"]
    try:
        subprocess.run(build, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"\n(speech made shorter and longer needs cargo: {error})")
        return
    tempo = ROOT / "target" / "release" / "examples" / "tempo"
    for share in TEMPOS:
        pcm = to_pcm(side.said.astype(np.float32)).tobytes()
        done = subprocess.run([tempo, str(LINE_HZ), str(share)], input=pcm, capture_output=True, check=True)
        heard = np.frombuffer(done.stdout, "<i2") / 32768.0
        change = f"{abs(share):.0%} {'shorter' if share > 0 else 'longer'}"
        judged(change, "", side, heard, in_time=False)


def level_dbfs(pcm: Signal) -> float:
    return float(10 * np.log10(np.mean(pcm**2) + 1e-12))


def active_dbfs(pcm: Signal) -> float:
    """The level of the 20 ms pieces within ACTIVE_DB of the loudest."""
    frames = pcm[: len(pcm) // 160 * 160].reshape(-1, 160)
    power = np.mean(frames**2, axis=1)
    return float(10 * np.log10(np.mean(power[power > power.max() * 10 ** (-ACTIVE_DB / 10)])))


def octaves_db(pcm: Signal) -> Signal:
    """Levels from 125 Hz to 4 kHz."""
    spectrum = np.abs(np.fft.rfft(pcm)) ** 2
    hz = np.fft.rfftfreq(len(pcm), 1 / LINE_HZ)
    edges = (125, 250, 500, 1000, 2000, 4000)
    bands = [spectrum[(hz >= low) & (hz < 2 * low)].mean() for low in edges[:-1]]
    levels: Signal = 10 * np.log10(np.array(bands))
    return levels


def own_sounds() -> None:
    """The bridge's own sounds: levels and edges."""
    agent, _ = talk(AGENT_FIRST, AGENT_DBFS)
    caller = hiss(len(agent), LINE_DBFS, 1)
    said = to_pcm(resample(caller, ENGINE_HZ, LINE_HZ))
    quiet = TwoWay(said, agent[: 4 * ENGINE_HZ], engine="stall 3s at 5s down")
    quiet.agent = np.concatenate([quiet.agent, hiss(20 * ENGINE_HZ, AGENT_DBFS, 2)])
    heard = quiet.run().caller_heard.astype(float)
    noise, line = (heard[int(at_s * LINE_HZ) : int((at_s + 2) * LINE_HZ)] for at_s in (5.5, 8.5))
    apart = np.abs(octaves_db(noise) - octaves_db(line)).max()
    print(f"\nNoise in a long gap, against the line's own: {level_dbfs(noise) - level_dbfs(line):+.1f} dB;")
    print(f"no octave is off by more than {apart:.1f} dB.")
    print("\n| sound | level, dBFS | peak | first and last 20 ms |")
    print("|---|--:|--:|--:|")
    row("a human voice", f"{active_dbfs(to_line(sentence('human'))):.1f}", "", "")
    for name in announcements.Sound:
        pcm = announcements.sound(name, LINE_HZ).astype(float)
        peak = 20 * np.log10(np.abs(pcm).max())
        ends = f"{level_dbfs(pcm[:160]):.0f}, {level_dbfs(pcm[-160:]):.0f}"
        row(name.value, f"{active_dbfs(pcm):.1f}", f"{peak:.1f}", ends)


def undisturbed(pictures: Path | None) -> None:
    """The path against Opus alone, on every kind of line."""
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


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder for spectrograms")
    pictures: Path | None = parser.parse_args().pictures
    undisturbed(pictures)
    calls(pictures)
    own_sounds()


if __name__ == "__main__":
    main()
