"""The queries of dashboards and alert rules, and what they name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
DASHBOARDS: Final = DEPLOY / "grafana" / "dashboards"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"

_SELECTOR: Final = re.compile(r"\b(?P<metric>(?:pxbridge|process)_\w+)(?:\{(?P<matchers>[^}]*)\})?")
_MATCHER: Final = re.compile(r'(?P<label>\w+)\s*(?:=~|!~|!=|=)\s*"(?P<value>[^"]*)"')
_GROUPING: Final = re.compile(r"\b(?:by|ignoring|on|without)\s*\((?P<labels>[^)]*)\)")


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        where: The panel or the alert.
        text: In PromQL, with Grafana's variables.
    """

    where: str
    text: str

    @property
    def plain(self) -> str:
        """The query without Grafana's variables."""
        return self.text.replace("$__rate_interval", "1m").replace("$instance", ".*")

    def selectors(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Each metric that it names, and the values that it wants its labels to have."""
        for found in _SELECTOR.finditer(self.plain):
            yield found["metric"], dict(_MATCHER.findall(found["matchers"] or ""))

    def grouped_by(self) -> set[str]:
        """The labels that it groups by."""
        return {
            label.strip() for found in _GROUPING.finditer(self.plain) for label in found["labels"].split(",")
        }


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(DASHBOARDS.glob("*.json"))]


def of_dashboards() -> list[Query]:
    return [
        Query(f"{dashboard['title']} / {panel['title']}", target["expr"])
        for dashboard in dashboards()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def of_rules() -> list[Query]:
    """The alerts' queries. The file is simple enough to be read without a YAML library."""
    text = RULES.read_text(encoding="utf-8")
    found = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n)?((?:.*\n)+?) +(?:for|labels):", text)
    return [Query(name, query.strip()) for name, query in found]
