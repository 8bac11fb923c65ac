"""Mistakes that are easy to make with many callers, each made in a copy: the test that is named finds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "pxbridge"
TESTS = ROOT / "tests" / "engine"
TESTS_FAILED = 1
"""pytest's exit status; what cannot run at all has another one."""


@dataclass(frozen=True)
class Edit:
    """In a file of `pxbridge/personaplex`, text that is there once, and what stands there instead."""

    file: str
    before: str
    after: str


@dataclass(frozen=True)
class Mutant:
    name: str
    test: str
    edits: tuple[Edit, ...]


MUTANTS = [
    Mutant(
        "prefill does not move the masked position",
        "test_model.py::TestCallersDoNotMeet::test_a_prompt_is_prefilled_while_others_talk",
        (
            Edit("lm_slots.py", "        self._state.position[slot] = start + length\n", ""),
            Edit(
                "model.py",
                "        self._lm.begin(slot, hidden)\n",
                "        self._lm._state.position[slot] = session.position\n"
                "        self._lm.begin(slot, hidden)\n",
            ),
        ),
    ),
    Mutant(
        "noise is drawn per tick",
        "test_model.py::TestCallersDoNotMeet::test_a_missed_tick_changes_nothing_of_a_seeded_call",
        (
            Edit(
                "lm_slots.py",
                "        keys = noise_keys(state.seed, position, DRAWN_STREAMS)\n",
                "        self.draws = getattr(self, 'draws', 0) + 1\n"
                "        position = torch.full_like(position, self.draws)\n"
                "        keys = noise_keys(state.seed, position, DRAWN_STREAMS)\n",
            ),
        ),
    ),
    Mutant(
        "the last caller's keys stay in a slot",
        "test_model.py::TestCallersDoNotMeet::test_a_reused_slot_keeps_nothing_of_its_last_caller",
        (
            Edit("attention.py", "        self.keys[:, slot].zero_()\n", ""),
            Edit("attention.py", "        self.values[:, slot].zero_()\n", ""),
            Edit(
                "attention.py",
                "        seen = (position + 1).clamp_max(self.context)\n",
                "        seen = (position + 1).clamp_max(self.context)\n"
                "        self.most = seen = torch.maximum(seen, getattr(self, 'most', seen))\n",
            ),
        ),
    ),
    Mutant(
        "a slot gets the prompt that was set last",
        "test_model.py::TestCallersDoNotMeet::test_a_slot_gets_its_own_prompt_whoever_else_is_prompted",
        (
            Edit(
                "model.py",
                "            start = session.position\n",
                "            start = session.position\n"
                "            last = [s for s in self._sessions.values() if isinstance(s, _Prefilling)][-1]\n"
                "            session.embeddings = last.embeddings\n"
                "            count = min(count, len(session.embeddings) - start)\n",
            ),
        ),
    ),
    Mutant(
        "greedy takes the first of topk",
        "test_sampling.py::test_greedy_takes_the_first_of_equals",
        (Edit("sampling.py", "drawn, logits.argmax(-1))", "drawn, tokens[:, 0])"),),
    ),
    Mutant(
        "a prefix serves another voice",
        "test_model.py::TestPrefixes::test_each_voice_has_prefixes_of_its_own",
        (Edit("prefix.py", "    if one.voice.key != other.voice.key:\n        return 0\n", ""),),
    ),
    Mutant(
        "what was said before moves on in a slot that has no frame",
        "test_mimi.py::test_slots_with_misses_and_new_callers_are_as_alone",
        (Edit("streaming.py", "torch.where(running, new, memory, out=memory)", "memory.copy_(new)"),),
    ),
    Mutant(
        "the ring forgets one position too many once it is full",
        "test_pinned_prompt.py::test_a_ring_is_an_unwrapped_cache_with_a_mask",
        (
            Edit(
                "attention.py",
                "(position + 1).clamp_max(self.context)",
                "(position + 1).clamp_max(self.context - 1)",
            ),
        ),
    ),
]


def run_tests(package: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *(str(TESTS / test) for test in tests)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "assets", "simulation", "console")
    return Path(shutil.copytree(PACKAGE, tmp_path / "pxbridge", ignore=ignored))


def test_in_a_copy_without_a_mutant_tests_pass(copy: Path) -> None:
    result = run_tests(copy, "test_sampling.py", MUTANTS[0].test)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(mutant: Mutant, copy: Path) -> None:
    for edit in mutant.edits:
        path = copy / "personaplex" / edit.file
        source = path.read_text("utf-8")
        assert source.count(edit.before) == 1, f"{edit.file} has changed: write the mutant anew"
        path.write_text(source.replace(edit.before, edit.after), "utf-8")
    result = run_tests(copy, mutant.test)
    assert result.returncode == TESTS_FAILED, result.stdout + result.stderr
    assert "AssertionError" in result.stdout or "assert " in result.stdout
