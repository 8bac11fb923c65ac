from __future__ import annotations

from tests.rust_source import declared, names

SOURCE = r"""
//! Exotel in a doc comment.
/* a block /* nested exotel */ still a comment */
use crate::carrier::Reader; // exotel
const LIMIT: usize = 0x10;
pub(crate) struct Line<'a> {
    /// exotel_field
    pub backlog: &'a str,
}
enum State { Idle, Held { since_us: i64 } }
impl Line<'_> {
    fn r#move(&self, at_us: i64) -> char {
        let mut text = "exotel \" in a string";
        let raw = r#"exotel "quoted" raw"#;
        let bytes = b"exotel";
        if text.len() > 3 { 'e' } else { '\'' }
    }
}
macro_rules! shout { () => {}; }
"""


def test_names_in_comments_and_strings_are_not_names() -> None:
    assert "exotel" not in {name.lower() for name in names(SOURCE)}
    assert {"Reader", "Line", "backlog", "move", "text", "Held"} <= names(SOURCE)


def test_declarations_are_found_with_their_kind() -> None:
    assert declared(SOURCE) >= {
        ("const", "LIMIT"),
        ("struct", "Line"),
        ("field", "backlog"),
        ("enum", "State"),
        ("field", "since_us"),
        ("fn", "move"),
        ("field", "at_us"),
        ("let", "text"),
        ("let", "raw"),
    }
