//! PCM to Ogg Opus bytes and back (RFC 7845): the wire of PersonaPlex, moshi and sphn.
//!
//! The one idea: this is a live wire, not a file. The writer makes a page of every packet at once. The reader gives
//! its samples at once, even if headers, granule positions or pages are missing or wrong. So it ignores two things:
//! - Granule positions: sphn 0.1 counts them at 24 kHz.
//! - Pre-skip: sphn announces 80 ms and does not drop them itself. A right pre-skip hides a few ms of silence at the
//!   start of a call; a wrong one would cost words.
//!
//! Both matter in a file, where padding is not what was recorded. [`OggOpusReader::trimmed`] makes a reader of files.

use crate::codec::ogg::{Event, OggStats, Packet, PacketReader, PageEnd, PageKind, PageWriter};
use crate::codec::opus::{Decoder, Encoder, EncoderConfig};
use crate::error::Result;

/// Ogg Opus counts time at this rate, whatever the input's was (RFC 7845 §4).
const GRANULE_HZ: u32 = 48_000;
const HEAD_MAGIC: &[u8; 8] = b"OpusHead";
const TAGS_MAGIC: &[u8; 8] = b"OpusTags";
const VENDOR: &[u8] = b"pxbridge";
// Fields of the identification header (RFC 7845 §5.1).
const HEAD_BYTES: usize = 19;
const HEAD_VERSION: u8 = 1;
/// Versions up to this one are compatible with version 1.
const HEAD_VERSION_MAX: u8 = 15;
const HEAD_CHANNELS_AT: usize = 9;
const HEAD_PRE_SKIP_AT: usize = 10;
const HEAD_GAIN_AT: usize = 16;
const HEAD_FAMILY_AT: usize = 18;
/// A header gain beyond this is not believed: ±24 dB, in 1/256 dB.
const GAIN_LIMIT_Q8: u16 = 24 * 256;
/// At most this much sound replaces lost pages. A larger gap in the numbers means another stream, not a loss.
const MAX_LOST_MS: usize = 1000;
/// At most this much sound comes out of one call, unless [`OggOpusReader::with_longest_read`] says otherwise. A live
/// peer sends some seconds at once. But a packet of three bytes can claim 120 ms, so a message of 1 MB could ask for
/// gigabytes.
const MAX_READ_S: usize = 300;

/// PCM to Ogg Opus bytes: one packet a page; mono towards an engine, stereo for recordings.
#[derive(Debug)]
pub struct OggOpusWriter {
    encoder: Encoder,
    pages: PageWriter,
    state: Written,
    /// Samples that do not fill a frame yet.
    pending: Vec<f32>,
    packet: Vec<u8>,
    pre_skip: u16,
    frame_granules: u64,
    granule: u64,
    /// Input so far, at the encoder's rate.
    samples: u64,
}

/// The part of the stream that has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    Headers,
    All,
}

impl OggOpusWriter {
    /// A stream with this serial number, which should be random.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn new(config: EncoderConfig, serial: u32) -> Result<Self> {
        Self::with_channels(config, 1, serial)
    }

    /// A stream of 1 channel, or of 2, whose samples are interleaved.
    ///
    /// # Errors
    /// As [`Encoder::with_channels`].
    pub fn with_channels(config: EncoderConfig, channels: usize, serial: u32) -> Result<Self> {
        let encoder = Encoder::with_channels(config, channels)?;
        let granules_per_sample = GRANULE_HZ / config.rate_hz;
        let frame_granules = encoder.frame_samples() as u64 * u64::from(granules_per_sample);
        let pre_skip = encoder.lookahead_samples() as u64 * u64::from(granules_per_sample);
        Ok(Self {
            pending: Vec::with_capacity(encoder.frame_samples() * channels),
            encoder,
            pages: PageWriter::new(serial),
            state: Written::Nothing,
            packet: Vec::new(),
            pre_skip: u16::try_from(pre_skip).unwrap_or(u16::MAX),
            frame_granules,
            granule: 0,
            samples: 0,
        })
    }

    /// Appends the two header pages to `out`, the first time it is called. [`Self::write`] does it if you do not. An
    /// engine wants them after its handshake and before any sound.
    pub fn headers(&mut self, out: &mut Vec<u8>) {
        if self.state != Written::Nothing {
            return;
        }
        self.state = Written::Headers;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(HEAD_MAGIC);
        head.extend_from_slice(&[HEAD_VERSION, self.encoder.channels() as u8]);
        head.extend_from_slice(&self.pre_skip.to_le_bytes());
        head.extend_from_slice(&self.encoder.config().rate_hz.to_le_bytes());
        head.extend_from_slice(&[0; 3]);
        self.pages.write(&head, 0, PageKind::First, out);
        let mut tags = Vec::new();
        tags.extend_from_slice(TAGS_MAGIC);
        tags.extend_from_slice(&(VENDOR.len() as u32).to_le_bytes());
        tags.extend_from_slice(VENDOR);
        tags.extend_from_slice(&0u32.to_le_bytes());
        self.pages.write(&tags, 0, PageKind::Middle, out);
    }

    /// Takes samples, any number, and appends a page for every frame they complete. After [`Self::finish`] it
    /// does nothing.
    pub fn write(&mut self, pcm: &[f32], out: &mut Vec<u8>) {
        if self.state == Written::All {
            return;
        }
        self.headers(out);
        self.samples += (pcm.len() / self.encoder.channels()) as u64;
        let frame = self.encoder.frame_samples() * self.encoder.channels();
        let mut rest = pcm;
        if !self.pending.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(frame - self.pending.len()));
            self.pending.extend_from_slice(head);
            rest = tail;
            if self.pending.len() < frame {
                return;
            }
            let whole = std::mem::take(&mut self.pending);
            self.page(&whole, PageKind::Middle, out);
            self.pending = whole;
            self.pending.clear();
        }
        let mut frames = rest.chunks_exact(frame);
        for whole in &mut frames {
            self.page(whole, PageKind::Middle, out);
        }
        self.pending.extend_from_slice(frames.remainder());
    }

    /// Ends the stream: the last samples, and those that the encoder still holds, go out with silence behind them.
    /// The last granule position tells a file's reader where to cut (RFC 7845 §4.4).
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.state == Written::All {
            return;
        }
        self.headers(out);
        self.state = Written::All;
        let frame = self.encoder.frame_samples() * self.encoder.channels();
        let mut last = std::mem::take(&mut self.pending);
        // One frame or two: the look-ahead is shorter than any frame but may reach over the next border.
        let needed = last.len() + self.encoder.lookahead_samples() * self.encoder.channels();
        last.resize(needed.next_multiple_of(frame), 0.0);
        let count = last.len() / frame;
        for (at, whole) in last.chunks_exact(frame).enumerate() {
            let kind = if at + 1 == count {
                PageKind::Last
            } else {
                PageKind::Middle
            };
            self.page(whole, kind, out);
        }
    }

    /// Samples taken that are in no page yet.
    #[must_use]
    pub fn buffered_samples(&self) -> usize {
        self.pending.len()
    }

    /// Samples beyond full scale so far, which were clipped.
    #[must_use]
    pub fn clipped_samples(&self) -> u64 {
        self.encoder.clipped_samples()
    }

    /// The encoder's look-ahead, in samples at its rate.
    #[must_use]
    pub fn lookahead_samples(&self) -> usize {
        self.encoder.lookahead_samples()
    }

    fn page(&mut self, frame: &[f32], kind: PageKind, out: &mut Vec<u8>) {
        self.packet.clear();
        // It refuses only a wrong length, and the lengths are ours.
        let encoded = self.encoder.encode(frame, &mut self.packet);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        if encoded.is_err() {
            return;
        }
        self.granule += self.frame_granules;
        let granule = if kind == PageKind::Last {
            let played = self.samples * u64::from(GRANULE_HZ / self.encoder.config().rate_hz);
            self.granule.min(u64::from(self.pre_skip) + played)
        } else {
            self.granule
        };
        self.pages.write(&self.packet, granule, kind, out);
    }
}

/// Counters of an [`OggOpusReader`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Counters of the container.
    pub ogg: OggStats,
    /// Identification headers.
    pub headers: u64,
    /// Audio packets decoded.
    pub packets: u64,
    /// Samples given, concealed ones included.
    pub samples: u64,
    /// Of these, samples that replace lost or late ones.
    pub concealed_samples: u64,
    /// Packets that could not be decoded, empty ones included.
    pub malformed_packets: u64,
    /// Packets of streams with more than two channels, which are passed over.
    pub unsupported_packets: u64,
    /// Packets and losses passed over because one call had given its longest sound already.
    pub surplus_packets: u64,
}

/// Ogg Opus bytes to mono PCM. It takes every stream of a real encoder, whole or damaged, and never fails. Streams of
/// other codecs (Vorbis, Theora) are passed over.
#[derive(Debug)]
pub struct OggOpusReader {
    packets: PacketReader,
    decoder: PacketDecoder,
    max_read_s: usize,
}

impl OggOpusReader {
    /// A reader that gives samples at `rate_hz`, whatever rate the stream was made from.
    ///
    /// libopus decodes at 8 kHz as well as a resampler behind a decoder at 24 kHz, and without its delay. Measured
    /// with an engine's stream (Voip, 14 to 24 kbit/s): speech below 3.4 kHz is within −48 dB of the decode at 24 kHz
    /// that soxr VHQ resampled. The response is flat to 3.8 kHz, where the resampler has lost 8 dB. A tone of 4.3 kHz
    /// is folded back at −28 dB (resampler: −49). Above 4.6 kHz both are at about the codec's own noise.
    ///
    /// # Errors
    /// [`crate::Error::Rate`] if Opus does not know the rate.
    pub fn new(rate_hz: u32) -> Result<Self> {
        Ok(Self {
            packets: PacketReader::of(HEAD_MAGIC),
            decoder: PacketDecoder {
                opus: Decoder::new(rate_hz, 1)?,
                rate_hz: rate_hz as usize,
                layout: Layout::Readable,
                page_samples: 0,
                this_page: 0,
                trim: None,
                stats: StreamStats::default(),
            },
            max_read_s: MAX_READ_S,
        })
    }

    /// The same reader, which drops the padding of each stream, as RFC 7845 asks of a file's reader: the pre-skip at
    /// the start (§4.2), and at the end what lies behind the last granule position (§4.4). A granule position that
    /// is wrong costs at most the samples of the stream's last page.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        self.decoder.trim = Some(Trim::default());
        self
    }

    /// The same reader, which gives at most this much sound in one call.
    #[must_use]
    pub fn with_longest_read(self, max_read_s: usize) -> Self {
        Self { max_read_s, ..self }
    }

    /// Takes the next bytes, in any split, and appends the samples they complete, up to the longest sound of one call.
    pub fn read(&mut self, bytes: &[u8], out: &mut Vec<f32>) {
        if let Some(trim) = &mut self.decoder.trim {
            trim.given = 0; // what an earlier read gave cannot be taken back
        }
        let before = out.len();
        let full = before + self.max_read_s * self.decoder.rate_hz;
        self.packets
            .read(bytes, |event| self.decoder.take(event, full, out));
        self.decoder.stats.samples += (out.len() - before) as u64;
    }

    /// Appends `samples` of concealment, for when the next packet is late: the expected continuation of the sound,
    /// which fades to silence within 120 ms. Ask for multiples of 2.5 ms.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<f32>) {
        self.decoder.opus.conceal(samples, out);
        self.decoder.stats.samples += samples as u64;
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            ogg: self.packets.stats(),
            malformed_packets: self.decoder.opus.malformed(),
            concealed_samples: self.decoder.opus.concealed(),
            ..self.decoder.stats
        }
    }

    /// Bytes held back until more come.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.packets.held_bytes()
    }
}

/// Packets to samples.
#[derive(Debug)]
struct PacketDecoder {
    opus: Decoder,
    rate_hz: usize,
    layout: Layout,
    /// Samples of the last page on which packets ended. A lost page is assumed to have held as many.
    page_samples: usize,
    this_page: usize,
    /// Which padding to drop; None on a live wire, which gives everything.
    trim: Option<Trim>,
    stats: StreamStats,
}

/// Where one stream's sound begins and ends, for a reader that drops the padding.
#[derive(Debug, Clone, Copy, Default)]
struct Trim {
    /// Samples of the pre-skip that are still to be dropped.
    skip: usize,
    /// The granule position of the last page that had one. RFC 7845 §4.4 takes 0 if there was none.
    granule: u64,
    /// Samples decoded behind that position.
    decoded: usize,
    /// Samples of the page being read that were given. No others can be taken back.
    given: usize,
}

impl Trim {
    /// Drops what the pre-skip covers of the samples from `before` on.
    fn start(&mut self, before: usize, out: &mut Vec<f32>) {
        let decoded = out.len() - before;
        let dropped = self.skip.min(decoded);
        out.drain(before..before + dropped);
        self.skip -= dropped;
        self.decoded += decoded;
        self.given += decoded - dropped;
    }

    /// A page ends. Drops what lies behind the end of the stream, if the stream ends with it.
    fn end(&mut self, page: PageEnd, rate_hz: usize, out: &mut Vec<f32>) {
        let given = std::mem::take(&mut self.given);
        let Some(granule) = page.granule else { return };
        if page.ends_stream && granule >= self.granule {
            let kept = samples_in(granule - self.granule, rate_hz);
            let surplus = self.decoded.saturating_sub(kept);
            out.truncate(out.len() - surplus.min(given));
        }
        (self.granule, self.decoded) = (granule, 0);
    }
}

/// The number of samples whose positions lie before this one.
fn samples_in(granules: u64, rate_hz: usize) -> usize {
    let samples = granules.div_ceil(u64::from(GRANULE_HZ) / rate_hz as u64);
    usize::try_from(samples).unwrap_or(usize::MAX)
}

/// Whether one Opus decoder can read the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One or two channels in one Opus stream. Assumed until a header says otherwise.
    Readable,
    /// Several Opus streams in each packet (channel mapping family 1 and others, RFC 7845 §5.1.1).
    Multistream,
}

impl PacketDecoder {
    /// Appends the samples of an event, unless `out` has grown to `full`.
    fn take(&mut self, event: Event<'_>, full: usize, out: &mut Vec<f32>) {
        let before = out.len();
        match event {
            Event::Packet(packet) if packet.data.starts_with(HEAD_MAGIC) => return self.begin(packet.data),
            Event::Packet(packet) if packet.data.starts_with(TAGS_MAGIC) => return,
            _ if out.len() >= full => self.stats.surplus_packets += 1,
            Event::Packet(packet) => self.this_page += self.packet(packet, out),
            Event::Broken { .. } => {
                let samples = self.opus.last_samples();
                self.opus.conceal(samples, out);
                self.this_page += samples;
            }
            Event::Lost { pages } => {
                let lost = self.page_samples.saturating_mul(pages as usize);
                self.opus
                    .conceal(lost.min(self.rate_hz * MAX_LOST_MS / 1000), out);
            }
        }
        if let Some(trim) = &mut self.trim {
            trim.start(before, out);
        }
        if let Some(end) = event.page_end() {
            self.page_samples = std::mem::take(&mut self.this_page);
            if let Some(trim) = &mut self.trim {
                trim.end(end, self.rate_hz, out);
            }
        }
    }

    /// Appends the samples of a packet, and returns their number.
    fn packet(&mut self, packet: Packet<'_>, out: &mut Vec<f32>) -> usize {
        if self.layout == Layout::Multistream {
            self.stats.unsupported_packets += 1;
            return 0;
        }
        // A packet too long to be held arrives cut. The decoder counts an empty packet as malformed.
        let data = if packet.complete { packet.data } else { &[] };
        let malformed_before = self.opus.malformed();
        let samples = self.opus.decode(data, out);
        self.stats.packets += u64::from(self.opus.malformed() == malformed_before);
        samples
    }

    /// A stream begins. No sound of the previous stream may be heard in it.
    fn begin(&mut self, head: &[u8]) {
        self.stats.headers += 1;
        self.opus.reset();
        (self.page_samples, self.this_page) = (0, 0);
        self.layout = Layout::Readable;
        if let Some(trim) = &mut self.trim {
            *trim = Trim::default();
        }
        let mut gain = 0;
        // A header cut short, or of a version to come, says nothing that can be relied on.
        if head.len() >= HEAD_BYTES && head[HEAD_MAGIC.len()] <= HEAD_VERSION_MAX {
            gain = i16::from_le_bytes([head[HEAD_GAIN_AT], head[HEAD_GAIN_AT + 1]]);
            if head[HEAD_FAMILY_AT] != 0 && head[HEAD_CHANNELS_AT] > 2 {
                self.layout = Layout::Multistream;
            }
            if let Some(trim) = &mut self.trim {
                let pre_skip = u16::from_le_bytes([head[HEAD_PRE_SKIP_AT], head[HEAD_PRE_SKIP_AT + 1]]);
                trim.skip = samples_in(u64::from(pre_skip), self.rate_hz);
            }
        }
        self.opus.set_gain_q8(if gain.unsigned_abs() <= GAIN_LIMIT_Q8 {
            gain
        } else {
            0
        });
    }
}
