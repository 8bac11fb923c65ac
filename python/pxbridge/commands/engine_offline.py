"""`pxbridge engine offline`: a conversation on a file."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pxbridge.commands import engine_options
from pxbridge.commands.output import require_writable
from pxbridge.commands.terminal import say
from pxbridge.errors import InputError, PromptTooLong
from pxbridge.personaplex.config import SAMPLE_RATE_HZ
from pxbridge.personaplex.prompt import Prompt
from pxbridge.personaplex.stepper import Sampling
from pxbridge.wav import read_wav, resample, to_pcm, write_float_wav, write_wav

if TYPE_CHECKING:
    from rich.console import Console

    from pxbridge.personaplex.assembly import Assembled
    from pxbridge.personaplex.config import LmConfig
    from pxbridge.personaplex.offline import Spoken
    from pxbridge.wav import Sound

SEED_BITS = 63

_EPILOG = """\
The agent's sound is as long as the caller's, at 24 kHz, and float32 if the caller's is. FILE of --output-text
has a list of one string a step of 80 ms: a piece of the text, or EPAD or PAD. FILE of --output-tokens has
int16 [steps, 9]: the text token, then the agent's eight codes.

No voice comes with pxbridge. NVIDIA's 18 (NATF0-3, NATM0-3, VARF0-4, VARM0-4) are in the checkpoint's
repository; a recording of 5 to 15 seconds, as NAME.wav in --voice-prompt-dir, makes another.

example:
  pxbridge engine offline --input-wav question.wav --output-wav answer.wav --output-text answer.json \\
      --voice-prompt NATF2 --text-prompt "You are Asha, who helps the customers of a bank."
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--input-wav", type=Path, required=True, metavar="FILE", help="what the caller says")
    parser.add_argument("--output-wav", type=Path, required=True, metavar="FILE", help="what the agent says")
    parser.add_argument("--output-text", type=Path, required=True, metavar="FILE", help="its words (JSON)")
    parser.add_argument("--output-tokens", type=Path, metavar="FILE", help="its tokens (NumPy's .npy)")
    parser.add_argument("--voice-prompt", required=True, metavar="NAME", help="the agent's voice")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text-prompt", metavar="TEXT", help="the agent's text prompt; may be empty")
    text.add_argument(
        "--text-prompt-tokens", metavar="N,N,…", help="the same as tokens, taken as they are", type=_tokens
    )
    drawing = parser.add_argument_group("how tokens are drawn")
    seed = drawing.add_mutually_exclusive_group()
    seed.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same conversation")
    seed.add_argument("--greedy", action="store_true", help="always the likeliest token")
    for option, other, default in (
        ("--text-temperature", "--temp-text", 0.7),
        ("--audio-temperature", "--temp-audio", 0.8),
    ):
        drawing.add_argument(
            option, other, type=float, default=default, metavar="T", help="(default: %(default)s)"
        )
    for option, other, count in (("--text-topk", "--topk-text", 25), ("--audio-topk", "--topk-audio", 250)):
        drawing.add_argument(
            option, other, type=int, default=count, metavar="K", help="(default: %(default)s)"
        )
    engine_options.add_checkpoint_arguments(parser)
    engine_options.add_size_arguments(parser)
    engine_options.add_model_arguments(parser)
    parser.add_argument(
        "--cpu-offload",
        action="store_true",
        help="keep layers that do not fit into the GPU's memory on the CPU: works, but not in real time",
    )


async def run(args: argparse.Namespace, console: Console) -> int:
    """Holds the conversation and writes its files; returns the exit status.

    Raises:
        InputError: An argument or a file cannot be used.
    """
    sound = _caller(args.input_wav)
    for option in ("output_wav", "output_text", "output_tokens"):
        require_writable(f"--{option.replace('_', '-')}", getattr(args, option))
    lm, mimi = engine_options.configurations(args)
    tokens = _checked(args.text_prompt_tokens, lm)

    from pxbridge.personaplex.assembly import assemble, offloaded

    sampling = _sampling(args, console)
    options = engine_options.model_options(args, lm)
    if args.cpu_offload:
        options = offloaded(lm, mimi, options)
        say(
            console,
            f"{options.offload_layers} of {lm.num_layers} layers stay on the CPU. "
            "This cannot keep real time: for calls, use --weights int8 or a larger GPU.",
        )

    def tell(sentence: str) -> None:
        say(console, sentence)

    assembled = assemble(engine_options.sources(args), lm, mimi, options, tell)
    prompt = _prompt(args, assembled, tokens)
    began = time.perf_counter()
    spoken = await _converse(assembled, prompt, sampling, sound, console)
    took_s = time.perf_counter() - began
    _write(args, spoken, sound, assembled)
    say(
        console,
        f"{sound.duration_s:.1f} s of conversation in {took_s:.1f} s: {args.output_wav}, {args.output_text}"
        + (f", {args.output_tokens}" if args.output_tokens else ""),
    )
    return 0


def _tokens(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 5,17") from None


def _checked(tokens: tuple[int, ...] | None, lm: LmConfig) -> tuple[int, ...] | None:
    for token in tokens or ():
        if not 0 <= token < lm.text_card:
            raise InputError(
                f"--text-prompt-tokens: {token} is not a text token; they go from 0 to {lm.text_card - 1}"
            )
    return tokens


def _caller(file: Path) -> Sound:
    """The caller's sound at the engine's rate."""
    sound = read_wav(file)
    if len(sound.samples) == 0:
        raise InputError(f"--input-wav {file}: there is no audio in it")
    samples = resample(sound.samples, sound.rate_hz, SAMPLE_RATE_HZ)
    return sound._replace(samples=samples, rate_hz=SAMPLE_RATE_HZ)


def _sampling(args: argparse.Namespace, console: Console) -> Sampling:
    if args.greedy:
        return Sampling.greedy()
    seed = args.seed
    if seed is None:
        seed = secrets.randbits(SEED_BITS)
        say(console, f"drawn with --seed {seed}")
    try:
        return Sampling(
            text_temperature=args.text_temperature,
            text_top_k=args.text_topk,
            audio_temperature=args.audio_temperature,
            audio_top_k=args.audio_topk,
            seed=seed,
        )
    except ValueError as error:
        name, _, problem = str(error).partition(" ")
        option = name.replace("top_k", "topk").replace("_", "-")
        raise InputError(f"--{option} {problem}") from error


def _prompt(args: argparse.Namespace, assembled: Assembled, tokens: tuple[int, ...] | None) -> Prompt:
    text = assembled.tokenizer.encode_prompt(args.text_prompt) if tokens is None else tokens
    return Prompt(assembled.voices.load(args.voice_prompt), text)


async def _converse(
    assembled: Assembled, prompt: Prompt, sampling: Sampling, sound: Sound, console: Console
) -> Spoken:
    """The conversation itself, which Ctrl-C ends after a step."""
    from pxbridge.personaplex.offline import Spoken, converse, steps_of

    steps = []
    bar = Progress(
        TextColumn("talking"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=steps_of(sound.samples))
        try:
            for step in converse(assembled.model, prompt, sampling, sound.samples):
                if step is not None:
                    steps.append(step)
                    bar.advance(task)
                await asyncio.sleep(0)
        except PromptTooLong as error:
            raise InputError(f"{error}; see --context") from error
    return Spoken.of(steps)


def _write(args: argparse.Namespace, spoken: Spoken, caller: Sound, assembled: Assembled) -> None:
    from pxbridge.personaplex.offline import words_of

    samples = spoken.sound[: len(caller.samples)]
    if caller.is_float:
        write_float_wav(args.output_wav, samples, caller.rate_hz)
    else:
        write_wav(args.output_wav, to_pcm(samples), caller.rate_hz)
    try:
        words = words_of(spoken.tokens, assembled.tokenizer)
        args.output_text.write_text(json.dumps(words, ensure_ascii=False), "utf-8")
        if args.output_tokens:
            with args.output_tokens.open("wb") as file:
                np.save(file, spoken.tokens)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written: {error.strerror or error}") from error
