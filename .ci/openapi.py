"""`make openapi`: writes client/openapi.json, which the web client's types are generated from."""

import json
from pathlib import Path

from pxbridge.console.api import ENDPOINTS
from pxbridge.console.openapi import document

FILE = Path(__file__).parents[1] / "client" / "openapi.json"


def text() -> str:
    # Without the bridge's version: the file changes when the API does.
    return json.dumps(document(ENDPOINTS, "1"), indent=2) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
