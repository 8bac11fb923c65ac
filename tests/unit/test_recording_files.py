from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pxbridge.records.recording_files import FILES, file_name

if TYPE_CHECKING:
    from pxbridge.records.recording_files import Format


@pytest.mark.parametrize(
    "call_id", ["", "..", "../../etc/passwd", "a/b", "a b", "x" * 500, "é", "CON.", "\ud800", "a\0b"]
)
def test_any_call_id_becomes_a_harmless_file_name(call_id: str) -> None:
    name = file_name(call_id)
    assert name
    assert len(name) <= 64
    assert all(c.isascii() and (c.isalnum() or c in "-_") for c in name)


def test_an_ordinary_call_id_is_its_own_file_name_and_others_stay_distinct() -> None:
    assert file_name("7f0c2a_b-9") == "7f0c2a_b-9"
    assert file_name("a/b") != file_name("a.b")


@pytest.mark.parametrize("form", FILES)
def test_a_file_whose_header_cannot_be_written_leaves_no_descriptor(form: Format) -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="No space left"):
        FILES[form](descriptor, 8000)
    with pytest.raises(OSError) as closed:
        os.fstat(descriptor)
    assert closed.value.errno == errno.EBADF
