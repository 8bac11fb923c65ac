"""Writes the documentation's tables of settings and of persona keys from the code: `make docs-tables`."""

import re
from pathlib import Path

from pxbridge.settings import markdown_table, persona_file

DOCS = Path(__file__).parents[1] / "docs"

TABLES = {
    "configuration.md": ("settings", markdown_table()),
    "personas.md": ("personas", persona_file.markdown_table()),
}

for page, (name, table) in TABLES.items():
    file = DOCS / page
    begin = f"<!-- {name}: written by `make docs-tables` -->\n\n"
    end = f"\n<!-- end of {name} -->"
    text, found = re.subn(
        f"(?s){re.escape(begin)}.*?{re.escape(end)}",
        lambda _, begin=begin, table=table, end=end: begin + table + end,
        file.read_text(encoding="utf-8"),
    )
    if found != 1:
        raise SystemExit(f"{file}: expected one pair of comments around the table of {name}, found {found}")
    file.write_text(text, encoding="utf-8")
