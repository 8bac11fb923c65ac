"""Dashboards and alerts name what the registries have: each metric, label and value."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.queries import RULES, Query, dashboards, of_dashboards, of_rules
from tests.fault.processes import bridge_process, fetch

from pxbridge.commands.processes import free_port
from pxbridge.personaplex.telemetry import Telemetry

if TYPE_CHECKING:
    from pathlib import Path

Labels = dict[str, dict[str, set[str]]]
"""The values of each label of each metric, by the metric's name as it is scraped."""

ADDED_BY_PROMETHEUS = {"instance", "job", "le"}
JOBS = {"pxbridge", "pxbridge-engine"}
QUERIES = [*of_dashboards(), *of_rules()]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """What a bridge with a shared store and an engine tell Prometheus."""
    return labels_of(asyncio.run(a_bridges(tmp_path_factory.mktemp("state"))) + an_engines())


async def a_bridges(state: Path) -> str:
    port = free_port()
    async with bridge_process(
        state_dir=str(state),
        console_port=str(port),
        engines="ws://127.0.0.1:9",
        lease_store="redis://127.0.0.1:9/0",
    ):
        status, text = await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    return text


def an_engines() -> str:
    telemetry = Telemetry()
    telemetry.slots = lambda: {"free": 1}
    telemetry.memory = lambda: {"free": 1}
    return telemetry.scrape().decode()


def labels_of(text: str) -> Labels:
    found: Labels = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found[sample.name]
            for name, value in sample.labels.items():
                labels[name].add(value)
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_a_query_names_what_is_scraped(query: Query, scraped: Labels) -> None:
    named = list(query.selectors())
    assert named or "up{" in query.text
    known = set(ADDED_BY_PROMETHEUS)
    for metric, matchers in named:
        assert metric in scraped
        known |= scraped[metric].keys()
        for label, pattern in matchers.items():
            values = JOBS if label == "job" else scraped[metric].get(label, set())
            if label == "instance":
                continue
            for each in pattern.split("|"):
                assert any(re.fullmatch(each, value) for value in values), f"{metric}{{{label}={each}}}"
    assert query.grouped_by() <= known


@pytest.mark.parametrize("queries", [of_dashboards(), of_rules()], ids=["dashboard", "alerts"])
def test_what_costs_callers_is_shown_and_told(queries: list[Query], scraped: Labels) -> None:
    """A reason for which calls are refused, lost or silent is no use if nobody sees it."""
    named = [selector for query in queries for selector in query.selectors()]
    for metric in (
        "pxbridge_calls_total",
        "pxbridge_turned_away_total",
        "pxbridge_unknown_names_total",
        "pxbridge_call_first_sound_seconds_bucket",
        "pxbridge_engine_failures_total",
        "pxbridge_holes_total",
    ):
        assert metric in scraped and metric in [name for name, _ in named]
    told = [
        matchers.get("reason", ".*") for name, matchers in named if name == "pxbridge_door_refusals_total"
    ]
    for reason in ("full", "overloaded", "wrong_credentials", "bad_token"):
        assert any(re.fullmatch(pattern, reason) for pattern in told), reason


def test_every_alert_is_read() -> None:
    assert len(of_rules()) == RULES.read_text(encoding="utf-8").count("- alert:") > 10


def test_every_alert_says_what_to_do_and_has_a_test() -> None:
    rules = RULES.read_text(encoding="utf-8")
    tests = RULES.with_name("rules_test.yml").read_text(encoding="utf-8")
    for query in of_rules():
        block = rules.partition(f"- alert: {query.where}\n")[2].partition("- alert:")[0]
        assert "summary:" in block and "action:" in block
        assert re.search(r"severity: (page|ticket)", block)
        assert f"name: {query.where}\n" in tests
        assert f"alertname: {query.where}\n        exp_alerts:\n" in tests, "it fires"
        assert tests.count(f"alertname: {query.where}, exp_alerts: []") == 2, "it is quiet before and clears"


def test_a_wrong_name_would_be_found(scraped: Labels) -> None:
    for wrong in (
        "pxbridge_holes",
        'pxbridge_calls_total{outcome="lost"}',
        "sum by (colour) (pxbridge_info)",
    ):
        with pytest.raises(AssertionError):
            test_a_query_names_what_is_scraped(Query("wrong", wrong), scraped)


def test_panels_have_places_and_units_of_their_own() -> None:
    for dashboard in dashboards():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken and place["x"] + place["w"] <= 24
            taken |= cells
            assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]
