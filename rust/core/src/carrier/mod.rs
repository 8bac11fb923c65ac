//! Readers and writers of carriers' media, marks and clears. Nothing else in core knows a carrier.
//!
//! A [`Carrier`] is a [`MediaReader`] and a [`MediaWriter`], one of each per call. Both work with samples at the line's
//! rate. Only they know the form of a message and its codec, with the codec's state if it has one.

pub mod browser;
pub mod exotel;
mod json;
pub mod payload;

use std::fmt::Debug;

use crate::error::{Error, Result};
use crate::rate::LineRate;
use browser::{BrowserReader, BrowserWriter};
use exotel::{ExotelReader, ExotelWriter};
use payload::{Encoding, OddByte};

/// One message of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its content.
    pub bytes: &'a [u8],
    /// Whether it is text, and so UTF-8, or binary.
    pub is_text: bool,
}

impl<'a> Message<'a> {
    /// A text message.
    #[must_use]
    pub fn text(bytes: &'a [u8]) -> Self {
        Self { bytes, is_text: true }
    }

    /// A binary message.
    #[must_use]
    pub fn binary(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            is_text: false,
        }
    }
}

/// Messages for one socket, in their order. They share one buffer, which is used again after [`Messages::clear`].
#[derive(Debug, Clone, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where each message ends, and whether it is text.
    ends: Vec<(usize, bool)>,
}

impl Messages {
    /// Appends a text message: `write` appends its bytes to a buffer.
    pub fn push_text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push((self.bytes.len(), true));
    }

    /// Appends a binary message: `write` appends its bytes to a buffer.
    pub fn push_binary(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push((self.bytes.len(), false));
    }

    /// The messages.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        let mut begin = 0;
        self.ends.iter().map(move |&(end, is_text)| {
            let bytes = &self.bytes[std::mem::replace(&mut begin, end)..end];
            Message { bytes, is_text }
        })
    }

    /// Their number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Drops them all.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// The fields of a media message, apart from its samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MediaFrame {
    /// The stream's count of messages, if the carrier tells it.
    pub sequence: Option<u64>,
    /// The stream's count of media messages, if the carrier tells it.
    pub chunk: Option<u64>,
    /// Milliseconds since the stream began, if the carrier tells it.
    pub timestamp_ms: Option<u64>,
    /// Samples that were appended. A codec with a state may need more bytes before it gives any.
    pub samples: usize,
    /// A part of it could not be read. The rest was.
    pub malformed: bool,
    /// It is not the caller's sound but what the caller hears, so its samples were left out.
    pub other_track: bool,
    /// Whether odd bytes are halves of samples or stray: once in a stream, with the payload that decided it.
    pub odd_byte: Option<OddByte>,
}

/// Reads a carrier's messages.
pub trait MediaReader: Debug + Send {
    /// Reads a message and appends its samples, at the line's rate. `None` if it is no media: then nothing was
    /// appended. It never fails and never panics, whatever the message holds.
    fn read(&mut self, message: Message<'_>, pcm: &mut Vec<f32>) -> Option<MediaFrame>;

    /// The name of the mark that a message, which is no media, brings back. `None`: it is another event, or it must be
    /// read with more care than here. Marks are most of what a phone sends beside its sound.
    fn returned_mark<'a>(&self, message: Message<'a>) -> Option<&'a str> {
        let _ = message;
        None
    }
}

/// Writes messages for a carrier.
pub trait MediaWriter: Debug + Send {
    /// Appends the messages that carry these samples, at the line's rate. They are whole packets of
    /// [`PACKET_MS`](crate::rate::PACKET_MS).
    fn media(&mut self, pcm: &[f32], out: &mut Messages);

    /// Appends a mark. The carrier sends it back when all audio before it has been played. `false`: this carrier has
    /// no marks, and nothing was appended.
    fn mark(&mut self, name: &str, out: &mut Messages) -> bool;

    /// Appends a clear: the phone's side drops the audio that it has not begun to play.
    fn clear(&mut self, out: &mut Messages);
}

/// The carrier of a line for which none is named.
pub const DEFAULT: &str = "exotel";

/// The carrier of a call: its reader and its writer.
#[derive(Debug)]
pub struct Carrier {
    /// Reads the messages of the phone's socket.
    pub reader: Box<dyn MediaReader>,
    /// Writes messages for it.
    pub writer: Box<dyn MediaWriter>,
}

impl Carrier {
    /// The carrier of this name, for a stream that it calls `stream_id`. A carrier whose wire has one encoding ignores
    /// `encoding`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is not known; libopus refusing a new codec.
    pub fn named(name: &str, stream_id: &str, rate: LineRate, encoding: Encoding) -> Result<Self> {
        match name {
            "browser" => Ok(Self {
                reader: Box::new(BrowserReader::new(rate)?),
                writer: Box::new(BrowserWriter::new(rate)?),
            }),
            "exotel" => Ok(Self {
                reader: Box::new(ExotelReader::new(encoding)),
                writer: Box::new(ExotelWriter::new(stream_id, rate, encoding)),
            }),
            _ => Err(Error::Parameter {
                name: "carrier",
                value: format!("'{name}'"),
                expected: "expected 'exotel' or 'browser'",
            }),
        }
    }
}
