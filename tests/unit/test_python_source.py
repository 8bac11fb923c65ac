from __future__ import annotations

from tests.python_source import declared, names

SOURCE = '''
"""Exotel in a docstring."""
import pxbridge.telephony as port  # exotel
from pxbridge.calls.call import Call

LIMIT: int = 1

class Line(Call):
    rate_hz = 8000
    backlog: int

    def __init__(self, tape, *, lead_s=0.1):
        self.sent, text = 0, "exotel"
        match tape:
            case Call(record=kept):
                pass

    async def flush(self):
        return [each for each in self.sent if each.value]
'''


def test_names_in_comments_and_strings_are_not_names() -> None:
    assert "exotel" not in {name.lower() for name in names(SOURCE)}
    assert {"telephony", "port", "Line", "tape", "sent", "record", "kept", "value"} <= names(SOURCE)


def test_declarations_are_found_with_their_kind() -> None:
    assert declared(SOURCE) == {
        ("variable", "LIMIT"),
        ("class", "Line"),
        ("field", "rate_hz"),
        ("field", "backlog"),
        ("function", "__init__"),
        ("parameter", "self"),
        ("parameter", "tape"),
        ("parameter", "lead_s"),
        ("field", "sent"),
        ("variable", "text"),
        ("variable", "kept"),
        ("function", "flush"),
        ("variable", "each"),
    }
