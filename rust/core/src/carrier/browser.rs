//! PersonaPlex's own wire, as its clients speak it: binary messages whose first byte is their kind.
//!
//! A browser, or any other client of `/api/chat`, sends one Ogg Opus stream and gets one. There are no marks. A clear
//! is metadata, which clients that do not know it ignore.

use crate::carrier::{MediaFrame, MediaReader, MediaWriter, Message, Messages};
use crate::codec::opus::{EncoderConfig, TOWARDS_ENGINE};
use crate::codec::stream::{OggOpusReader, OggOpusWriter};
use crate::error::Result;
use crate::rate::LineRate;

/// First byte of a message with bytes of an Ogg Opus stream.
const AUDIO: u8 = 1;

/// A clear: first byte of metadata, and the JSON.
const CLEAR: &[u8] = b"\x04{\"clear\":true}";

/// A message yields at most this much sound. A client sends some packets of 20 ms in one; a packet of one byte can
/// claim 120 ms, so that a small message could ask for minutes of decoding.
const MAX_MESSAGE_S: usize = 1;

/// As towards an engine, but at half the bits: good for a voice, and it leaves room on a mobile line.
const TOWARDS_BROWSER: EncoderConfig = EncoderConfig {
    bitrate_bps: 48_000,
    ..TOWARDS_ENGINE
};

/// The stream's number. A socket carries one stream in this direction, so it need not be random.
const SERIAL: u32 = 1;

/// Reads a client's messages.
#[derive(Debug)]
pub struct BrowserReader {
    ogg: OggOpusReader,
}

impl BrowserReader {
    /// For a line of this rate.
    ///
    /// # Errors
    /// libopus refusing a new decoder.
    pub fn new(rate: LineRate) -> Result<Self> {
        Ok(Self {
            ogg: OggOpusReader::new(rate.hz())?.with_longest_read(MAX_MESSAGE_S),
        })
    }
}

impl MediaReader for BrowserReader {
    fn read(&mut self, message: Message<'_>, pcm: &mut Vec<f32>) -> Option<MediaFrame> {
        if message.is_text {
            return None;
        }
        let ogg = message.bytes.strip_prefix(&[AUDIO])?;
        let (before, damage) = (pcm.len(), self.damage());
        self.ogg.read(ogg, pcm);
        Some(MediaFrame {
            samples: pcm.len() - before,
            malformed: self.damage() > damage,
            ..MediaFrame::default()
        })
    }
}

impl BrowserReader {
    /// How many parts of the stream could not be read so far.
    fn damage(&self) -> u64 {
        let stats = self.ogg.stats();
        let ogg = stats.ogg;
        ogg.crc_errors
            + ogg.junk_bytes
            + ogg.broken_packets
            + stats.malformed_packets
            + stats.unsupported_packets
            + stats.surplus_packets
    }
}

/// Writes messages for a client.
#[derive(Debug)]
pub struct BrowserWriter {
    ogg: OggOpusWriter,
    /// Whether the header pages were sent.
    begun: bool,
}

impl BrowserWriter {
    /// For a line of this rate.
    ///
    /// # Errors
    /// libopus refusing a new encoder.
    pub fn new(rate: LineRate) -> Result<Self> {
        let config = EncoderConfig {
            rate_hz: rate.hz(),
            ..TOWARDS_BROWSER
        };
        Ok(Self {
            ogg: OggOpusWriter::new(config, SERIAL)?,
            begun: false,
        })
    }
}

impl MediaWriter for BrowserWriter {
    /// One message, with a page for each packet of 20 ms. Before the first one, the header pages go out in a message of
    /// their own, as PersonaPlex sends them.
    fn media(&mut self, pcm: &[f32], out: &mut Messages) {
        if pcm.is_empty() {
            return;
        }
        if !self.begun {
            self.begun = true;
            out.push_binary(|bytes| {
                bytes.push(AUDIO);
                self.ogg.headers(bytes);
            });
        }
        out.push_binary(|bytes| {
            bytes.push(AUDIO);
            self.ogg.write(pcm, bytes);
        });
    }

    fn mark(&mut self, _name: &str, _out: &mut Messages) -> bool {
        false
    }

    fn clear(&mut self, out: &mut Messages) {
        out.push_binary(|bytes| bytes.extend_from_slice(CLEAR));
    }
}
