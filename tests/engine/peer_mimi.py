"""Our Mimi against Kyutai's own at its real size; run in the environment of `moshi`, by `test_mimi_peer`.

The weights are random, louder than an untrained model's so that sound in changes sound out, and go through a
file: so the names and shapes that we expect of Kyutai's file are those that Kyutai's code writes.
"""

import os
import sys
from pathlib import Path

os.environ["NO_TORCH_COMPILE"] = "1"

import torch
from moshi.models import loaders
from safetensors.torch import save_file

from pxbridge.personaplex.checkpoint import open_mimi
from pxbridge.personaplex.config import FRAME_SAMPLES, MimiConfig
from pxbridge.personaplex.mimi import Mimi

SLOTS, FRAMES = 3, 10
NEW_CALLER_AT, NEW_CALLER = 5, 1
RUNNING_SHARE = 0.8
PCM_TOLERANCE = 1e-4
"""Of full scale."""

torch.manual_seed(0)
torch.set_grad_enabled(False)

theirs = loaders.get_mimi(None, num_codebooks=8).eval()
for name, parameter in theirs.named_parameters():
    if "layer_scale" in name:
        parameter.fill_(0.3)
    elif parameter.dim() == 3:
        parameter.mul_(2.0)
for name, buffer in theirs.named_buffers():
    if name.endswith("embedding_sum"):
        buffer.normal_(0, 0.5)
    elif name.endswith("cluster_usage"):
        buffer.uniform_(0.5, 2)
file = Path(sys.argv[1]) / "mimi.safetensors"
save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, file)

ours = Mimi(MimiConfig(), open_mimi(file, MimiConfig()), torch.device("cpu"))
encoder, decoder = ours.encoder(SLOTS), ours.decoder(SLOTS)
theirs.streaming_forever(SLOTS)
chance = torch.Generator().manual_seed(3)
compared, codes_seen, worst = 0, set(), 0.0
for frame in range(FRAMES):
    if frame == NEW_CALLER_AT:
        newcomer = torch.arange(SLOTS) == NEW_CALLER
        theirs.reset_streaming(newcomer)
        encoder.copy(NEW_CALLER, ours.encoder(1))
        decoder.copy(NEW_CALLER, ours.decoder(1))
    running = torch.rand(SLOTS, generator=chance) < RUNNING_SHARE
    theirs.set_exec_mask(running)
    sound = 0.3 * torch.randn(SLOTS, FRAME_SAMPLES, generator=chance)
    expected = theirs.encode(sound[:, None])[..., 0]
    found = ours.encode(encoder, sound, running)
    assert torch.equal(found[running], expected[running]), f"frame {frame}: codes differ"
    expected_sound = theirs.decode(expected[..., None])[:, 0]
    found_sound = ours.decode(decoder, expected, running)
    if running.any():
        scale = expected_sound[running].abs().max().clamp_min(1.0)
        worst = max(worst, float((found_sound - expected_sound)[running].abs().max() / scale))
    compared += int(running.sum())
    codes_seen |= set(expected[running].flatten().tolist())
assert worst < PCM_TOLERANCE, f"sound differs by {worst:.1e} of full scale"
assert compared > SLOTS * FRAMES / 2
assert len(codes_seen) > 50, "too few different codes to tell anything"
sys.stdout.write(f"{compared} frames, {len(codes_seen)} different codes, sound within {worst:.1e}\n")
