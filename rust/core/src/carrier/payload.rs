//! Encodings of payloads, and base64.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::codec::{g711, pcm};
use crate::error::{Error, Result};

/// The encoding of the samples in a payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// 16-bit little-endian linear PCM.
    #[default]
    Pcm16,
    /// G.711 µ-law, one byte a sample.
    MuLaw,
}

impl Encoding {
    /// The encoding of this name: `pcm16` or `mulaw`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is not known.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "pcm16" => Ok(Self::Pcm16),
            "mulaw" => Ok(Self::MuLaw),
            _ => Err(Error::Parameter {
                name: "encoding",
                value: format!("'{name}'"),
                expected: "expected 'pcm16' or 'mulaw'",
            }),
        }
    }

    /// Bytes of one sample.
    #[must_use]
    pub fn sample_bytes(self) -> usize {
        match self {
            Self::Pcm16 => 2,
            Self::MuLaw => 1,
        }
    }

    /// Appends the samples in `bytes`; false if half a sample was left over, and dropped.
    pub(crate) fn extend(self, bytes: &[u8], out: &mut Vec<f32>) -> bool {
        match self {
            Self::Pcm16 => {
                let (samples, half) = bytes.as_chunks::<2>();
                out.extend(
                    samples
                        .iter()
                        .map(|&sample| pcm::to_f32(i16::from_le_bytes(sample))),
                );
                half.is_empty()
            }
            Self::MuLaw => {
                out.extend(bytes.iter().map(|&byte| g711::from_mu_law(byte)));
                true
            }
        }
    }

    /// Writes `samples` into the front of `bytes`, which has room, and returns how many bytes that took.
    pub(crate) fn put(self, samples: &[f32], bytes: &mut [u8]) -> usize {
        match self {
            Self::Pcm16 => {
                for (bytes, &sample) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(samples) {
                    *bytes = pcm::to_i16(sample).to_le_bytes();
                }
            }
            Self::MuLaw => {
                for (byte, &sample) in bytes.iter_mut().zip(samples) {
                    *byte = g711::to_mu_law(pcm::to_i16(sample));
                }
            }
        }
        samples.len() * self.sample_bytes()
    }
}

/// The library's decoder for base64 as it should be, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Payloads go through a buffer in pieces of this many bytes, whole samples and whole base64 quads. A 100 ms message
/// at 8 kHz is a single one of them.
const PIECE: usize = 3072;
const PIECE_BASE64: usize = PIECE / 3 * 4;

/// Payloads in base64: reads and writes them through one buffer of bounded size.
#[derive(Debug, Clone)]
pub(crate) struct Base64Payload {
    encoding: Encoding,
    piece: Box<[u8]>,
}

impl Base64Payload {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            piece: vec![0; PIECE].into_boxed_slice(),
        }
    }

    /// Appends the samples of a payload, given as it stands in the message. False if a part of it could not be read.
    pub(crate) fn decode(&mut self, mut payload: &[u8], out: &mut Vec<f32>) -> bool {
        out.reserve(payload.len() / 4 * 3 / self.encoding.sample_bytes() + 2);
        while !payload.is_empty() {
            let (now, later) = payload.split_at(payload.len().min(PIECE_BASE64));
            match BASE64.decode_slice(now, &mut self.piece) {
                // A short piece before the end would shift what follows by part of a sample.
                Ok(bytes) if bytes == PIECE || later.is_empty() => {
                    if !self.encoding.extend(&self.piece[..bytes], out) {
                        return false;
                    }
                    payload = later;
                }
                _ => return self.decode_dirty(payload, out),
            }
        }
        true
    }

    /// Decodes base64 that the library refuses: white space, JSON escapes and the url-safe alphabet are taken, and
    /// the first other character (or padding) ends the payload, because what follows it may not be aligned to
    /// samples.
    fn decode_dirty(&mut self, payload: &[u8], out: &mut Vec<f32>) -> bool {
        let mut filled = 0;
        let (mut bits, mut bit_count) = (0_u32, 0);
        let mut characters = Unescaped { rest: payload };
        let mut clean = true;
        for c in &mut characters {
            let sextet = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                c if c.is_ascii_whitespace() => continue,
                b'=' => {
                    clean = characters.all(|c| c == b'=' || c.is_ascii_whitespace());
                    break;
                }
                _ => {
                    clean = false;
                    break;
                }
            };
            bits = (bits << 6) | u32::from(sextet);
            bit_count += 6;
            if bit_count >= 8 {
                bit_count -= 8;
                self.piece[filled] = (bits >> bit_count) as u8;
                filled += 1;
                if filled == PIECE {
                    self.encoding.extend(&self.piece, out);
                    filled = 0;
                }
            }
        }
        // Six bits left over are a character that belongs to no byte.
        self.encoding.extend(&self.piece[..filled], out) && clean && bit_count < 6
    }

    /// Appends samples.
    pub(crate) fn encode(&mut self, pcm: &[f32], out: &mut Vec<u8>) {
        let sample_bytes = self.encoding.sample_bytes();
        let mut at = out.len();
        out.resize(at + (pcm.len() * sample_bytes).div_ceil(3) * 4, 0);
        for samples in pcm.chunks(PIECE / sample_bytes) {
            let taken = self.encoding.put(samples, &mut self.piece);
            // Room for exactly this was made above.
            at += BASE64
                .encode_slice(&self.piece[..taken], &mut out[at..])
                .unwrap_or(0);
        }
    }
}

/// The characters of a JSON string; those outside ASCII, and broken escapes, come as 0, which is no base64.
struct Unescaped<'a> {
    rest: &'a [u8],
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&c, rest) = self.rest.split_first()?;
        self.rest = rest;
        if c != b'\\' {
            return Some(c);
        }
        let (&escape, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let code = self.rest.get(..4).and_then(|hex| {
                    hex.iter()
                        .try_fold(0_u32, |code, &c| Some((code << 4) | char::from(c).to_digit(16)?))
                });
                self.rest = self.rest.get(4..).unwrap_or_default();
                code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0)
            }
            b'"' | b'\\' | b'/' => escape,
            _ => 0,
        })
    }
}
