"""The figures in docs/engine.md are those that the program gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.personaplex.fake_model import Costs
from tests.personaplex.simulated_callers import World, in_world, percentile
from tests.personaplex.test_scheduler import A_WHILE_S, full_house

from pxbridge.personaplex.config import LmConfig, MimiConfig
from pxbridge.personaplex.memory import footprint
from pxbridge.personaplex.slots import plan

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
CARDS = {"24 GB": 24 << 30, "32 GB": 32 << 30, "48 GB": 48 << 30, "80 GB": 80 << 30, "141 GB": 141 * 10**9}
USED_ALREADY = 0.02
"""Of a card before the engine starts."""


def table(first_cell: str) -> list[list[str]]:
    """The rows of a table on the page, without its head."""
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith(f"| {first_cell} |"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def fit(card: str, weights: str, context: int) -> int:
    free_bytes = int(CARDS[card] * (1 - USED_ALREADY))
    parts = footprint(LmConfig(), MimiConfig(), context=context, weights=weights)  # type: ignore[arg-type]
    return plan(parts, free_bytes, context=context, device="cuda").slots


@pytest.mark.parametrize("row", table("card"), ids=lambda row: row[0])
def test_a_card_takes_as_many_conversations_as_the_table_says(row: list[str]) -> None:
    card = row[0].partition(" (")[0]
    kinds = (("full", 3000), ("full", 1500), ("int8", 3000), ("int8", 1500))
    assert [int(cell) for cell in row[1:]] == [fit(card, *kind) for kind in kinds]


def test_the_way_to_a_call_says_as_much_as_the_table() -> None:
    few, int8, many = (fit("24 GB", "full", 3000), fit("24 GB", "int8", 3000), fit("80 GB", "full", 3000))
    words = " ".join(PAGE.split())
    assert (
        f"On an RTX 4090 that is {few} conversations, or {int8} with `--weights int8`; on an H100 {many}."
        in words
    )


@pytest.mark.parametrize("row", table("slots"), ids=lambda row: f"{row[0]} at {row[1]} ms")
def test_callers_wait_as_long_as_the_table_says(row: list[str]) -> None:
    in_world(lambda: assert_waits(row))()


def assert_waits(row: list[str]) -> None:
    slots, tick_ms = int(row[0]), int(row[1])
    world = World(Costs(tick_s=tick_ms / 1000), slots=slots)
    callers = full_house(world, 30.0)
    world.run(40.0)
    answered = [each for caller in callers for each in caller.answered if each.said_s > A_WHILE_S]
    waits = [each.began_s - each.said_s for each in answered]
    answers = [each.ended_s - each.said_s for each in answered]
    assert [
        f"{1000 * percentile(waits, 50):.0f}, {1000 * percentile(waits, 99):.0f}",
        f"{1000 * percentile(answers, 50):.0f}, {1000 * percentile(answers, 99):.0f}",
        f"{sum(each.ended_s - each.began_s for each in world.ticks if 5 < each.began_s < 25) / 20:.0%}",
    ] == [row[2], row[3], row[4].replace(" ", "")]
