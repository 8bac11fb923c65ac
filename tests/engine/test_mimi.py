"""Our Mimi against Kyutai's golden codes and sound; and slots that do not disturb each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tests.engine import tiny
from tests.engine.rig import MIMI_CASES, mimi_tensors, tiny_model

from pxbridge.personaplex.config import FRAME_SAMPLES
from pxbridge.personaplex.mimi import Mimi
from pxbridge.personaplex.stepper import finished

if TYPE_CHECKING:
    from numpy.typing import NDArray

CASES = range(2)
CLEAR_GAP = 1e-4
"""Between the two nearest centroids: below, rounding may choose either."""
SOUND_TOLERANCE = 1e-4

ONE = torch.ones(1, dtype=torch.bool)


@pytest.fixture(scope="module")
def mimi() -> Mimi:
    return Mimi(tiny.MIMI, mimi_tensors(), torch.device("cpu"))


def frames_of(case: int) -> torch.Tensor:
    """[60, 1, 1920]."""
    return torch.from_numpy(MIMI_CASES[f"pcm_{case}"]).view(-1, 1, FRAME_SAMPLES)


def encoded(mimi: Mimi, case: int) -> NDArray[np.int64]:
    stream = mimi.encoder(1)
    return torch.cat([mimi.encode(stream, frame, ONE) for frame in frames_of(case)]).numpy()


def decoded(mimi: Mimi, codes: NDArray[np.int64]) -> NDArray[np.float32]:
    stream = mimi.decoder(1)
    frames = torch.from_numpy(codes).long()[:, None]
    return torch.cat([mimi.decode(stream, frame, ONE) for frame in frames]).flatten().numpy()


@pytest.mark.parametrize("case", CASES)
def test_codes_are_kyutais(mimi: Mimi, case: int) -> None:
    clear = MIMI_CASES[f"gap_{case}"] > CLEAR_GAP
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(encoded(mimi, case)[clear], MIMI_CASES[f"codes_{case}"][clear])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["", "random_"])
def test_sound_is_kyutais(mimi: Mimi, case: int, what: str) -> None:
    found = decoded(mimi, MIMI_CASES[f"{what}codes_{case}"])
    expected = MIMI_CASES[f"{what}decoded_{case}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=SOUND_TOLERANCE)


def test_slots_with_misses_and_new_callers_are_as_alone(mimi: Mimi) -> None:
    """Three slots; each frame misses at times, and a slot that ends a case begins another one."""
    chance = np.random.default_rng(1)
    slots = 3
    encoder, decoder = mimi.encoder(slots), mimi.decoder(slots)
    fresh_encoder, fresh_decoder = mimi.encoder(1), mimi.decoder(1)
    pcm = [frames_of(case)[:, 0] for case in CASES]
    codes = [torch.from_numpy(MIMI_CASES[f"random_codes_{case}"]).long() for case in CASES]
    expected_codes = [encoded(mimi, case) for case in CASES]
    expected_sound = [decoded(mimi, c.numpy()).reshape(-1, FRAME_SAMPLES) for c in codes]
    case, at = [0, 1, 0], [0, 0, 0]
    for tick in range(150):
        running = torch.from_numpy(chance.random(slots) < 0.7)
        if tick == 60:  # in the middle of a case
            encoder.copy(1, fresh_encoder)
            decoder.copy(1, fresh_decoder)
            case[1], at[1] = 0, 0
        frame = torch.stack([pcm[case[slot]][at[slot]] for slot in range(slots)])
        row = torch.stack([codes[case[slot]][at[slot]] for slot in range(slots)])
        frame[~running], row[~running] = 7.0, 2047  # what does not count
        found_codes = mimi.encode(encoder, frame, running).numpy()
        found_sound = mimi.decode(decoder, row, running).numpy()
        for slot in running.nonzero()[:, 0].tolist():
            here = case[slot], at[slot]
            if MIMI_CASES[f"gap_{here[0]}"][here[1]] > CLEAR_GAP:
                np.testing.assert_array_equal(found_codes[slot], expected_codes[here[0]][here[1]])
            np.testing.assert_allclose(found_sound[slot], expected_sound[here[0]][here[1]], rtol=0, atol=1e-5)
            at[slot] += 1
            if at[slot] == len(pcm[0]):
                encoder.copy(slot, fresh_encoder)
                decoder.copy(slot, fresh_decoder)
                case[slot], at[slot] = 1 - case[slot], 0


def test_a_voice_is_encoded_as_a_stream_and_its_last_frame_is_filled_with_zeros() -> None:
    model = tiny_model()
    sound = MIMI_CASES["pcm_0"]
    clear = MIMI_CASES["gap_0"] > CLEAR_GAP
    np.testing.assert_array_equal(finished(model.encode(sound))[clear], MIMI_CASES["codes_0"][clear])
    cut = sound[: 2 * FRAME_SAMPLES + 100]
    filled = np.concatenate([cut, np.zeros(FRAME_SAMPLES - 100, np.float32)])
    np.testing.assert_array_equal(finished(model.encode(cut)), finished(model.encode(filled)))
    assert finished(model.encode(sound[:0])).shape == (0, 8)
