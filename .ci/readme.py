"""Writes the README's tables of settings and of persona keys from the code. `make readme` runs it."""

import re
from pathlib import Path

from pxbridge.settings import markdown_table, persona_file

README = Path(__file__).parents[1] / "README.md"

text = README.read_text(encoding="utf-8")
for name, table in (("settings", markdown_table()), ("personas", persona_file.markdown_table())):
    begin = f"<!-- {name}: written by `make readme` -->\n\n"
    end = f"\n<!-- end of {name} -->"
    text, found = re.subn(
        f"(?s){re.escape(begin)}.*?{re.escape(end)}",
        lambda _, begin=begin, table=table, end=end: begin + table + end,
        text,
    )
    if found != 1:
        raise SystemExit(f"{README}: expected one pair of comments around the table of {name}, found {found}")
README.write_text(text, encoding="utf-8")
