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
    /// G.711 A-law, one byte a sample.
    ALaw,
}

impl Encoding {
    /// The encoding of this name: `pcm16`, `mulaw` or `alaw`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is not known.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "pcm16" => Ok(Self::Pcm16),
            "mulaw" => Ok(Self::MuLaw),
            "alaw" => Ok(Self::ALaw),
            _ => Err(Error::Parameter {
                name: "encoding",
                value: format!("'{name}'"),
                expected: "expected 'pcm16', 'mulaw' or 'alaw'",
            }),
        }
    }

    /// Bytes of one sample.
    #[must_use]
    pub fn sample_bytes(self) -> usize {
        match self {
            Self::Pcm16 => 2,
            Self::MuLaw | Self::ALaw => 1,
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
            Self::ALaw => {
                out.extend(bytes.iter().map(|&byte| g711::from_a_law(byte)));
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
            Self::ALaw => {
                for (byte, &sample) in bytes.iter_mut().zip(samples) {
                    *byte = g711::to_a_law(pcm::to_i16(sample));
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
    odd: OddPayloads,
    /// A payload's bytes, while it is not certain with which of them a sample begins.
    bytes: Vec<u8>,
}

impl Base64Payload {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            piece: vec![0; PIECE].into_boxed_slice(),
            odd: OddPayloads::default(),
            bytes: Vec::new(),
        }
    }

    /// Appends the samples of a payload, given as it stands in the message. False if a part of it could not be read.
    pub(crate) fn decode(&mut self, payload: &[u8], out: &mut Vec<f32>) -> bool {
        let encoding = self.encoding;
        out.reserve(payload.len() / 4 * 3 / encoding.sample_bytes() + 2);
        if self.odd.in_doubt() {
            self.bytes.clear();
            let clean = decode_base64(payload, &mut self.piece, |bytes| {
                self.bytes.extend_from_slice(bytes);
            });
            return self.odd.extend(&self.bytes, out) && clean;
        }
        let mut odd_byte = None;
        let clean = decode_base64(payload, &mut self.piece, |bytes| {
            if !encoding.extend(bytes, out) {
                odd_byte = bytes.last().copied();
            }
        });
        if clean {
            self.odd.byte = odd_byte;
        }
        clean && odd_byte.is_none()
    }

    /// Whether odd bytes are halves of samples or stray. Returned once, after the payload that decided it.
    pub(crate) fn take_verdict(&mut self) -> Option<OddByte> {
        self.odd.news.take()
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

/// The last byte of a 16-bit payload of odd length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OddByte {
    /// It belongs to no sample, and is dropped.
    Stray,
    /// It is the first half of a sample. The next payload begins with the other half.
    Half,
}

/// Finds out what the odd bytes of a stream are.
///
/// A 16-bit sample that is put together from halves of two samples is noise at full scale. So a payload after an odd
/// one is read in both ways, and the smoother one is right. If a payload is silent, or too short to tell, it is read
/// like those before it.
#[derive(Debug, Clone, Default)]
struct OddPayloads {
    /// The last byte of the payload before, if that had an odd length.
    byte: Option<u8>,
    verdict: Option<OddByte>,
    news: Option<OddByte>,
}

/// A payload with fewer samples proves nothing.
const ENOUGH_SAMPLES: u64 = 40;
/// The rougher way of reading is rougher by this factor. Speech and its halves differ by a hundred and more.
const MUCH_ROUGHER: u64 = 8;
/// Both ways of reading silence are smooth: below this mean square of the difference between samples.
const SMOOTH: u64 = 1000;

impl OddPayloads {
    /// Whether the next payload may begin within a sample. If one of a stream with halves is lost, any may.
    fn in_doubt(&self) -> bool {
        self.byte.is_some() || self.verdict == Some(OddByte::Half)
    }

    /// Appends the samples of a payload; false if a byte of it is dropped.
    fn extend(&mut self, bytes: &[u8], out: &mut Vec<f32>) -> bool {
        let before = self.byte.take();
        // Without the first half, the second is of no use.
        let (first, rest) = match (before, bytes.split_first()) {
            (_, None) => (None, bytes),
            (Some(half), Some((&byte, rest))) => (Some([half, byte]), rest),
            (None, Some((_, rest))) => (None, rest),
        };
        let (as_stray, as_half) = (roughness(bytes), roughness(rest));
        let shows = if rougher(as_stray, as_half) {
            Some(OddByte::Half)
        } else if rougher(as_half, as_stray) {
            Some(OddByte::Stray)
        } else {
            None
        };
        if self.verdict.is_none() {
            (self.verdict, self.news) = (shows, shows);
        }
        let is_half = match shows {
            Some(shown) => shown == OddByte::Half,
            None => self.verdict == Some(OddByte::Half) && before.is_some(),
        };
        let samples = if is_half {
            out.extend(first.map(|sample| pcm::to_f32(i16::from_le_bytes(sample))));
            rest
        } else {
            bytes
        };
        let whole = Encoding::Pcm16.extend(samples, out);
        self.byte = if whole { None } else { samples.last().copied() };
        whole || self.verdict == Some(OddByte::Half)
    }
}

/// The sum of squares of the differences between 16-bit samples, and the number of these.
fn roughness(bytes: &[u8]) -> (u64, u64) {
    let samples = bytes.as_chunks::<2>().0;
    let difference = |pair: &[[u8; 2]]| {
        let [a, b] = [pair[0], pair[1]].map(|sample| i64::from(i16::from_le_bytes(sample)));
        (a - b).unsigned_abs().pow(2)
    };
    (samples.windows(2).map(difference).sum(), samples.len() as u64)
}

/// Whether the first of two ways to read the same bytes is much rougher than the second.
fn rougher((this, samples): (u64, u64), (other, _): (u64, u64)) -> bool {
    samples >= ENOUGH_SAMPLES && this / samples > SMOOTH && this / MUCH_ROUGHER > other
}

/// Decodes a payload, given as it stands in the message, in pieces of whole samples. False if a part of it could not
/// be read.
fn decode_base64(mut payload: &[u8], piece: &mut [u8], mut take: impl FnMut(&[u8])) -> bool {
    while !payload.is_empty() {
        let (now, later) = payload.split_at(payload.len().min(PIECE_BASE64));
        match BASE64.decode_slice(now, piece) {
            // A short piece before the end would shift what follows by part of a sample.
            Ok(bytes) if bytes == PIECE || later.is_empty() => {
                take(&piece[..bytes]);
                payload = later;
            }
            _ => return decode_dirty(payload, piece, take),
        }
    }
    true
}

/// Decodes base64 that the library refuses: white space, JSON escapes and the url-safe alphabet are taken, and the
/// first other character (or padding) ends the payload, because what follows it may not be aligned to samples.
fn decode_dirty(payload: &[u8], piece: &mut [u8], mut take: impl FnMut(&[u8])) -> bool {
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
            piece[filled] = (bits >> bit_count) as u8;
            filled += 1;
            if filled == PIECE {
                take(piece);
                filled = 0;
            }
        }
    }
    take(&piece[..filled]);
    // Six bits left over are a character that belongs to no byte.
    clean && bit_count < 6
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
