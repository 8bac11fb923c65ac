"""Write README's table of settings from the settings themselves; `make readme` runs it."""

import re
from pathlib import Path

from pxbridge.settings import markdown_table

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- settings: written by `make readme` -->\n\n"
END = "\n<!-- end of settings -->"

text = README.read_text(encoding="utf-8")
text, found = re.subn(
    f"(?s){re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + markdown_table() + END, text
)
if found != 1:
    raise SystemExit(f"{README}: its two settings comments are not there once each")
README.write_text(text, encoding="utf-8")
