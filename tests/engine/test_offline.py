"""`pxbridge engine offline`: the conversations of NVIDIA's and Kyutai's own code, from files to files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.engine.tiny import FOLDER, LM_FILE, LM_JSON, MIMI_FILE, MIMI_JSON, TOKENIZER_FILE

from pxbridge import cli
from pxbridge.personaplex.text import Tokenizer
from pxbridge.wav import read_wav, to_pcm, write_float_wav, write_wav

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TINY = {
    "--moshi-weight": LM_FILE,
    "--mimi-weight": MIMI_FILE,
    "--tokenizer": TOKENIZER_FILE,
    "--lm-config": LM_JSON,
    "--mimi-config": MIMI_JSON,
    "--voice-prompt-dir": FOLDER,
    "--device": "cpu",
}
CASES = np.load(FOLDER / "cases.npz")
CONVERSATIONS = np.load(FOLDER / "engine_cases.npz")
SHORT = CONVERSATIONS["pcm_0"][: 8 * 1920]


@dataclass
class Run:
    """A command in a folder of its own, with the caller's sound as `in.wav`."""

    folder: Path

    def words(self, *more: object, **changes: object) -> list[str]:
        """The command line; a change to None leaves an option out."""
        options: dict[str, object] = {
            "--input-wav": self.folder / "in.wav",
            "--output-wav": self.folder / "out.wav",
            "--output-text": self.folder / "out.json",
            "--output-tokens": self.folder / "out.npy",
            "--voice-prompt": "voice-0",
            **TINY,
        }
        options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        pairs = [str(word) for option in options.items() if option[1] is not None for word in option]
        return ["engine", "offline", *pairs, *map(str, more)]

    @property
    def tokens(self) -> NDArray[np.int16]:
        found: NDArray[np.int16] = np.load(self.folder / "out.npy")
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_float_wav(tmp_path / "in.wav", SHORT, 24_000)
    return Run(tmp_path)


@pytest.mark.parametrize("case", [0, 1])
def test_a_whole_conversation_equals_the_golden_one(run: Run, case: int) -> None:
    write_float_wav(run.folder / "in.wav", CONVERSATIONS[f"pcm_{case}"], 24_000)
    text = ",".join(map(str, CASES[f"text_{case}"]))
    words = run.words("--greedy", voice_prompt=f"voice-{case}.pt", text_prompt_tokens=text)
    result = subprocess.run(
        [sys.executable, "-m", "pxbridge", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert run.tokens.dtype == np.int16
    np.testing.assert_array_equal(run.tokens, CONVERSATIONS[f"tokens_{case}"])
    sound = read_wav(run.folder / "out.wav")
    assert (sound.rate_hz, sound.is_float) == (24_000, True)
    np.testing.assert_allclose(sound.samples, CONVERSATIONS[f"sound_{case}"], atol=1e-4)
    assert len(json.loads((run.folder / "out.json").read_text())) == 60


def test_a_caller_of_integers_gets_integers_as_long_as_he_spoke(run: Run) -> None:
    pcm = to_pcm(SHORT[:-500])
    write_wav(run.folder / "in.wav", pcm, 24_000)
    assert cli.main(run.words("--greedy", text_prompt_tokens="5,6,7")) == 0
    heard = read_wav(run.folder / "out.wav")
    assert (len(heard.samples), heard.is_float) == (len(pcm), False)
    assert run.tokens.shape == (8, 9)


def test_other_rates_are_understood(run: Run) -> None:
    write_wav(run.folder / "in.wav", np.zeros(4000, np.int16), 8000)
    assert cli.main(run.words("--greedy", text_prompt="Be kind.")) == 0
    heard = read_wav(run.folder / "out.wav")
    assert (len(heard.samples), heard.rate_hz) == (12_000, 24_000)


def test_the_words_are_the_tokens(run: Run) -> None:
    assert cli.main(run.words("--greedy", text_prompt="Be kind.")) == 0
    words = json.loads((run.folder / "out.json").read_text())
    assert len(words) == 8
    for word, token in zip(words, run.tokens[:, 0], strict=True):
        assert (word == "PAD") == (token == 3) and (word == "EPAD") == (token == 0)


def test_a_seed_repeats_a_conversation_and_another_changes_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for seed in (7, 7, 8):
        assert cli.main(run.words(text_prompt="Be kind.", seed=seed)) == 0
        said.append(run.tokens)
    assert (said[0] == said[1]).all()
    assert (said[0] != said[2]).any()
    capsys.readouterr()
    assert cli.main(run.words(text_prompt="Be kind.")) == 0
    (drawn,) = [line for line in capsys.readouterr().out.splitlines() if "drawn with --seed" in line]
    first = run.tokens
    assert cli.main(run.words(text_prompt="Be kind.", seed=drawn.split()[-1])) == 0
    assert (run.tokens == first).all()


def test_without_temperature_a_seed_changes_nothing(run: Run) -> None:
    assert cli.main(run.words("--greedy", text_prompt="")) == 0
    greedy = run.tokens
    assert cli.main(run.words(text_prompt="", seed=5, text_temperature=0, audio_temperature=0)) == 0
    assert (run.tokens == greedy).all()


def test_text_is_wrapped_and_tokens_are_not(run: Run) -> None:
    wrapped = Tokenizer(TOKENIZER_FILE, 1000).encode_prompt("Be kind.")
    assert cli.main(run.words("--greedy", text_prompt="Be kind.")) == 0
    by_text = run.tokens
    assert cli.main(run.words("--greedy", text_prompt_tokens=",".join(map(str, wrapped)))) == 0
    assert (run.tokens == by_text).all()


def test_a_recording_is_a_voice(run: Run) -> None:
    voices = run.folder / "voices"
    voices.mkdir()
    write_float_wav(voices / "anna.wav", CONVERSATIONS["pcm_1"][:48_000], 24_000)
    words = run.words("--greedy", text_prompt="Be kind.", voice_prompt_dir=voices, voice_prompt="anna")
    assert cli.main(words) == 0
    assert run.tokens.shape == (8, 9)


def test_on_a_cpu_nothing_is_offloaded_and_all_is_the_same(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(run.words("--greedy", text_prompt_tokens="5,6,7")) == 0
    plain = run.tokens
    assert cli.main(run.words("--greedy", "--cpu-offload", text_prompt_tokens="5,6,7")) == 0
    assert (run.tokens == plain).all()
    assert "0 of 2 layers stay on the CPU. This cannot keep real time" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_short_context_forgets_and_goes_on(run: Run) -> None:
    write_float_wav(run.folder / "in.wav", CONVERSATIONS["pcm_0"][: 40 * 1920], 24_000)
    said = {}
    for pin in ("near", "off"):
        assert cli.main(run.words("--greedy", text_prompt_tokens="5,6,7", context=24, pin=pin)) == 0
        said[pin] = run.tokens
    assert (
        said["near"][:2] == said["off"][:2]
    ).all()  # 22 positions of prompt: the ring is full after 2 steps
    assert (said["near"] != said["off"]).any()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"voice_prompt": "NATF0"}, r"there is no voice 'NATF0'"),
        ({"voice_prompt": "../voice-0"}, r"there is no voice"),
        ({"text_prompt_tokens": "5,1000"}, r"--text-prompt-tokens: 1000 is not a text token"),
        ({"text_prompt_tokens": "5;6"}, r"--text-prompt-tokens: '5;6' is not a list of whole numbers"),
        ({"seed": "x"}, r"argument --seed: 'x' is not a whole number"),
        ({"audio_topk": 0}, r"--audio-topk 0: 1 to"),
        ({"text_temperature": "nan"}, r"argument --text-temperature/--temp-text: 'nan' is not a number"),
        ({"context": 20}, r"the prompt takes 22 positions of 80 ms; 19 fit; see --context"),
        ({"context": 1}, r"--context 1: "),
        ({"device": "tpu"}, r"argument --device: invalid choice: 'tpu'"),
        ({"input_wav": "/no.wav"}, r"/no\.wav: No such file"),
        ({"output_wav": "/no/out.wav"}, r"--output-wav /no/out\.wav: there is no such folder"),
        ({"output_tokens": "/no/out.npy"}, r"--output-tokens /no/out\.npy: there is no such folder"),
        ({"lm_config": MIMI_JSON}, r"tiny-mimi\.json: sample_rate: no such key"),
        ({"mimi_config": LM_JSON}, r"tiny-personaplex\.json: dim: no such key"),
        ({"moshi_weight": MIMI_FILE}, r"tiny-mimi\.safetensors: not the model of this configuration"),
        ({"mimi_weight": "/no"}, r"--mimi-weight /no: No such file"),
        ({"tokenizer": LM_JSON}, r"tiny-personaplex\.json: no SentencePiece model"),
        ({"voice_prompt_dir": "/no"}, r"--voice-prompt-dir /no: there is no such folder"),
        ({"frobnicate": 1}, r"--frobnicate \(command line\): no such argument"),
        ({"voice_promt": 1}, r"did you mean --voice-prompt\?"),
    ],
)
def test_a_refusal_is_status_2_and_one_line(
    run: Run, changes: dict[str, object], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(run.words(**{"text_prompt_tokens": "5,6,7", "seed": 1, **changes})) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pxbridge: ")
    assert re.search(problem, lines[0]), lines[0]
    assert not (run.folder / "out.wav").exists()


def test_what_must_be_said_is_asked_for_in_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(run.words("--greedy")) == 2
    assert "one of the arguments --text-prompt --text-prompt-tokens is required" in capsys.readouterr().err
    assert cli.main(run.words("--greedy", text_prompt="", voice_prompt=None)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(run.words("--greedy", "--seed", 1, text_prompt="")) == 2
    assert "not allowed with argument" in capsys.readouterr().err
