//! A JSON reader without a tree: one pass over a message notes where the few values of interest are.
//!
//! A media message has some 100 bytes of JSON around kilobytes of base64, and a call has up to fifty a second. The
//! reader checks no more of the JSON than it needs, because carriers disagree on the rest.

use std::io::Write as _;

/// True if `key` is `name`, in any case and with or without underscores.
pub(crate) fn is(key: &[u8], name: &[u8]) -> bool {
    // `sequence_number` is the longest name with one underscore more.
    key.len() <= name.len() + 2
        && key
            .iter()
            .filter(|&&c| c != b'_')
            .map(u8::to_ascii_lowercase)
            .eq(name.iter().copied())
}

/// A JSON value, as it stands in the message.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// Between the quotes, escapes and all.
    Text(&'a [u8]),
    /// A number, `true`, `false` or `null`.
    Bare(&'a [u8]),
    /// An object or array: nothing of interest.
    Nested,
}

impl<'a> Value<'a> {
    pub(crate) fn text(self) -> Option<&'a [u8]> {
        if let Self::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// A whole number that is not negative, written as a number or as a string; a fraction is dropped.
    pub(crate) fn number(self) -> Option<u64> {
        let (Self::Text(text) | Self::Bare(text)) = self else {
            return None;
        };
        let text = text.trim_ascii();
        let (whole, fraction) = match text.iter().position(|&c| c == b'.') {
            Some(point) => (&text[..point], &text[point + 1..]),
            None => (text, &text[..0]),
        };
        if whole.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        whole.iter().try_fold(0_u64, |number, &c| {
            let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
    }
}

/// Walks over JSON without checking more of it than it needs. Every method consumes, so it ends; none recurses but
/// into `media`, so its stack is bounded whatever the message nests.
pub(crate) struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// At the beginning of a message, behind its byte order mark if it has one.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self {
            rest: message.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(message),
        }
    }

    /// The next byte that is not white space, without taking it.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.rest = &self.rest[1..])
    }

    /// Walks an object; `each` takes the value of one key. `None` where the walk ended early.
    pub(crate) fn object(&mut self, mut each: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.peek()? == b'}' {
            return self.take(b'}');
        }
        loop {
            let key = self.text()?;
            self.take(b':')?;
            each(self, key)?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    /// A string, as it stands between its quotes.
    pub(crate) fn text(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let from = self.rest;
        let mut end = 0;
        loop {
            end += memchr::memchr2(b'"', b'\\', &from[end..])?;
            if from[end] == b'"' {
                self.rest = &from[end + 1..];
                return Some(&from[..end]);
            }
            // The escaped character, too, so that `\"` does not end the string.
            end += 2;
            if end > from.len() {
                return None;
            }
        }
    }

    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        match self.peek()? {
            b'"' => self.text().map(Value::Text),
            b'{' | b'[' => self.nested(),
            _ => {
                let ends = |c: &u8| matches!(c, b',' | b'}' | b']') || c.is_ascii_whitespace();
                let len = self.rest.iter().position(ends).filter(|&len| len > 0)?;
                let (bare, rest) = self.rest.split_at(len);
                self.rest = rest;
                Some(Value::Bare(bare))
            }
        }
    }

    /// Skips an object or array of any depth by counting its brackets.
    fn nested(&mut self) -> Option<Value<'a>> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.text()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.rest = &self.rest[1..];
            if depth == 0 {
                return Some(Value::Nested);
            }
        }
    }
}

/// Appends `text` as the inside of a JSON string (RFC 8259 §7).
pub(crate) fn escape(text: &str, out: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                // Writing to memory cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.push(byte),
        }
    }
}
