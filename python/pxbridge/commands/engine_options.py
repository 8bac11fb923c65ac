"""What the engine's commands ask for alike: a checkpoint, and how its model is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.errors import InputError
from pxbridge.personaplex.config import DEFAULT_REPO, LmConfig, MimiConfig

if TYPE_CHECKING:
    import argparse

    from pxbridge.personaplex.checkpoint import Sources
    from pxbridge.personaplex.model import Options


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the files with other sizes than the published ones."""
    group = parser.add_argument_group("sizes, where they are not the published ones")
    group.add_argument("--lm-config", type=Path, metavar="FILE", help="the language model's (JSON)")
    group.add_argument("--mimi-config", type=Path, metavar="FILE", help="Mimi's (JSON)")


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where a checkpoint comes from."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="a folder with the files of the Hugging Face repository",
    )
    group.add_argument(
        "--hf-repo",
        default=DEFAULT_REPO,
        metavar="NAME",
        help="the repository to download from (default: %(default)s); HF_TOKEN and HF_HUB_OFFLINE hold",
    )
    group.add_argument("--moshi-weight", type=Path, metavar="FILE", help="the language model (safetensors)")
    group.add_argument("--mimi-weight", type=Path, metavar="FILE", help="Mimi (safetensors)")
    group.add_argument("--tokenizer", type=Path, metavar="FILE", help="the tokenizer (SentencePiece)")
    group.add_argument(
        "--voice-prompt-dir", type=Path, metavar="DIR", help="voices: .pt files, and recordings as .wav"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares how a model is run."""
    group = parser.add_argument_group("model")
    group.add_argument("--device", choices=["cpu", "cuda"], help="(default: cuda where there is one)")
    group.add_argument(
        "--context", type=int, metavar="N", help="positions of 80 ms that stay in attention (default: 3000)"
    )
    group.add_argument(
        "--pin",
        choices=["near", "absolute", "off"],
        default="near",
        help="how the prompt stays in attention once the context is full (default: %(default)s)",
    )
    group.add_argument(
        "--weights",
        choices=["full", "int8"],
        default="full",
        help="int8 halves the memory of most weights, at some loss (default: %(default)s)",
    )
    group.add_argument(
        "--dtype",
        choices=["bfloat16", "float32", "float64"],
        help="of the language model (default: bfloat16 on cuda, float32 on cpu); with float64 Mimi has it "
        "too, and rounding decides nothing: a replay gives the same tokens whatever else was in the batch",
    )


def sources(args: argparse.Namespace) -> Sources:
    """Where the checkpoint comes from."""
    from pxbridge.personaplex.checkpoint import Sources

    return Sources(
        folder=args.checkpoint,
        repo=args.hf_repo,
        moshi_weight=args.moshi_weight,
        mimi_weight=args.mimi_weight,
        tokenizer=args.tokenizer,
        voices=args.voice_prompt_dir,
    )


def configurations(args: argparse.Namespace) -> tuple[LmConfig, MimiConfig]:
    """The sizes; raises InputError."""
    lm = LmConfig() if args.lm_config is None else LmConfig.read(args.lm_config)
    mimi = MimiConfig() if args.mimi_config is None else MimiConfig.read(args.mimi_config)
    return lm, mimi


def model_options(args: argparse.Namespace, lm: LmConfig) -> Options:
    """How the model is run, with one slot; raises InputError."""
    from pxbridge.personaplex.assembly import default_device, dtype_named, require_device
    from pxbridge.personaplex.model import Options

    device = args.device or default_device()
    require_device(device)
    context = lm.context if args.context is None else args.context
    if context < 2:
        raise InputError(f"--context {context}: a prompt and what follows it need more")
    dtype = None if args.dtype is None else dtype_named(args.dtype)
    return Options(context=context, pin=args.pin, device=device, dtype=dtype, weights=args.weights)


_OF_THE_MODEL = (
    *("checkpoint", "hf_repo", "moshi_weight", "mimi_weight", "tokenizer", "voice_prompt_dir"),
    *("lm_config", "mimi_config", "device", "context", "pin", "weights", "dtype"),
)


def model_arguments(args: argparse.Namespace) -> list[str]:
    """The arguments that lead another command to the same checkpoint, run in the same way."""
    defaults = {"hf_repo": DEFAULT_REPO, "pin": "near", "weights": "full"}
    given = {name: getattr(args, name) for name in _OF_THE_MODEL}
    return [
        part
        for name, value in given.items()
        if value is not None and value != defaults.get(name)
        for part in (
            f"--{name.replace('_', '-')}",
            str(value.resolve() if isinstance(value, Path) else value),
        )
    ]
