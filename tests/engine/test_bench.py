"""`pxbridge engine bench`: figures that fit together, and a reason where there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.engine.tiny import LM, LM_FILE, LM_JSON, MIMI, MIMI_FILE, MIMI_JSON

from pxbridge import cli
from pxbridge.personaplex import bench
from pxbridge.personaplex.bench import Machine, Row, Skipped, measure, random_tensors
from pxbridge.personaplex.config import LmConfig, MimiConfig
from pxbridge.personaplex.layout import lm_shapes, mimi_shapes
from pxbridge.personaplex.memory import ALLOWANCE_BYTES, footprint
from pxbridge.personaplex.model import Options

if TYPE_CHECKING:
    from pathlib import Path

SIZES = ["--lm-config", str(LM_JSON), "--mimi-config", str(MIMI_JSON), "--device", "cpu", "--context", "160"]
MACHINE = Machine("2", "a test's", 1.0, 10.0)
OPTIONS = Options(context=160)
GIB = 1 << 30


@pytest.fixture(autouse=True)
def few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TICKS", 4)


def test_random_weights_are_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    words = ["engine", "bench", "--random-weights", "--slots", "1,3", "--json", str(file), *SIZES]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "conversations held in real time: " in out
    assert "3 slots: a tick takes " in out
    figures = json.loads(file.read_text())
    assert [row["slots"] for row in figures["rows"]] == [1, 3]
    assert (figures["random_weights"], figures["context"], figures["skipped"]) == (True, 160, [])
    assert figures["machine"]["bandwidth_gb_s"] > 0
    for row in figures["rows"]:
        for times in (row["tick_after_prompt"], row["tick_in_full_context"]):
            assert row["floor_ms"] < times["p50_ms"] <= times["p95_ms"]
        assert 0 < row["longest_chunk_ms"] <= row["prefill_ms"]
        assert (row["graphed"], row["eager_in_full_context"], row["memory_gib"]) == (False, None, None)
        assert row["realtime"] == (row["tick_in_full_context"]["p95_ms"] < 80)


def test_a_checkpoints_weights_are_measured_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["engine", "bench", "--moshi-weight", str(LM_FILE), "--mimi-weight", str(MIMI_FILE)]
    assert cli.main([*words, "--slots", "2", "--weights", "int8", *SIZES]) == 0
    assert "2 slots: a tick takes" in capsys.readouterr().out


def test_random_weights_have_the_right_shapes_and_are_the_same_each_time() -> None:
    lm, mimi = random_tensors(LM, MIMI, OPTIONS)
    assert {name: tuple(tensor.shape) for name, tensor in lm.items()} == lm_shapes(LM, 8)
    assert {name: tuple(tensor.shape) for name, tensor in mimi.items()} == mimi_shapes(MIMI, 8)
    name = "text_linear.weight"
    assert (lm[name] == lm[name]).all()
    assert lm[name].std() == pytest.approx(LM.dim**-0.5, rel=0.05)
    assert len(lm) == len(lm_shapes(LM, 8))


def test_what_would_take_too_long_is_not_begun() -> None:
    times = iter([0.0, 0.0, 50.0, 50.0, 50.0])
    tensors = random_tensors(LM, MIMI, OPTIONS)
    found = list(measure(LM, MIMI, tensors, OPTIONS, [1, 2, 3], MACHINE, 90, lambda: next(times)))
    assert isinstance(found[0], Row)
    assert found[1:] == [Skipped(count, "it would take longer than 90 s in all") for count in (2, 3)]


def test_what_does_not_fit_is_told_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "free_bytes", lambda _: 16 * GIB)
    options = Options(context=3000)
    config, mimi = LmConfig(), MimiConfig()
    tensors = random_tensors(config, mimi, options)
    (found,) = measure(config, mimi, tensors, options, [8], MACHINE, 90)
    assert found == Skipped(8, "55.6 GiB are needed, 16.0 GiB are free")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--slots", "0,1"], "argument --slots: '0,1' is not a list of whole numbers above 0"),
        (["--slots", "many"], "argument --slots: 'many' is not a list of whole numbers above 0"),
        (["--seconds", "nan"], "argument --seconds: 'nan' is no number above 0"),
        (["--seconds=-1"], "argument --seconds: '-1' is no number above 0"),
        (["--context", "20"], "--context 20: at least 128 are needed to measure"),
        (["--json", "/no/figures.json"], "--json /no/figures.json: there is no such folder"),
        (["--moshi-weight", "/no"], "--moshi-weight /no: No such file"),
    ],
)
def test_a_refusal_is_status_2_and_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    random = [] if "--moshi-weight" in words else ["--random-weights"]
    assert cli.main(["engine", "bench", *SIZES, *random, *words]) == 2
    captured = capsys.readouterr().err
    assert problem in captured
    assert captured.count("\n") == 1


def test_the_published_model_takes_the_memory_that_it_is_known_to_take() -> None:
    parts = footprint(LmConfig(), MimiConfig(), context=3000)
    assert parts.layers * parts.layer + parts.rest == pytest.approx(15.4e9, rel=0.01)
    assert parts.position == 512 << 10
    assert parts.slot == pytest.approx(1.573e9 + 16.5e6, rel=0.001)
    int8 = footprint(LmConfig(), MimiConfig(), context=3000, weights="int8")
    assert int8.layer == pytest.approx(parts.layer / 2, rel=0.001)


@pytest.mark.parametrize(
    ("weights", "card_gib", "slots"), [("full", 80, 43), ("full", 24, 5), ("int8", 24, 9)]
)
def test_slots_fill_a_card_and_no_more(weights: str, card_gib: int, slots: int) -> None:
    parts = footprint(LmConfig(), MimiConfig(), context=3000, weights="int8" if weights == "int8" else "full")
    assert parts.slots(card_gib * GIB) == slots
    assert parts.total(slots) + ALLOWANCE_BYTES <= card_gib * GIB
    assert parts.slots(GIB) == 0


@pytest.mark.parametrize("free_gib", [40, 16, 12, 6, 1])
def test_as_many_layers_stay_on_the_cpu_as_do_not_fit(free_gib: int) -> None:
    parts = footprint(LmConfig(), MimiConfig(), context=3000)
    layers = parts.layers_that_do_not_fit(free_gib * GIB, slots=1)
    rest = parts.total(1) + ALLOWANCE_BYTES - layers * parts.layer
    if layers == 0:
        assert parts.total(1) + ALLOWANCE_BYTES <= free_gib * GIB
    elif layers < parts.layers:
        assert rest + parts.layer <= free_gib * GIB < rest + 2 * parts.layer
    else:
        assert rest + parts.layer > (free_gib - 1) * GIB
