//! Ogg pages (RFC 3533): a writer, and a push reader that resynchronises and never dies.
//!
//! The one idea: the reader trusts nothing but a right CRC. Every `OggS` in the bytes is a *candidate*. The first
//! candidate that is complete and has a right CRC is a page, even inside the range that an earlier and still
//! incomplete candidate claims. So junk that looks like a header cannot swallow the pages behind it, and a page that
//! was cut short delays nothing. The result depends on the bytes alone, never on how they were split.
//!
//! Constants are those of RFC 3533 §6 unless a comment says otherwise.

/// Every page begins with this.
const CAPTURE: &[u8; 4] = b"OggS";
/// A page's header without its lacing values.
const HEADER_BYTES: usize = 27;
/// Lacing values a page can hold.
const MAX_SEGMENTS: usize = 255;
/// A lacing value that says "the packet goes on".
const FULL_SEGMENT: u8 = 255;
/// Bytes of packet that one page can hold.
const MAX_BODY_BYTES: usize = MAX_SEGMENTS * FULL_SEGMENT as usize;
/// The largest page.
pub const MAX_PAGE_BYTES: usize = HEADER_BYTES + MAX_SEGMENTS + MAX_BODY_BYTES;
/// The longest packet that is put together. RFC 7845 §6 lets a reader call longer ones invalid. A longer one (the
/// comment header may hold pictures) is handed over cut, and marked so.
pub const MAX_PACKET_BYTES: usize = 61_440;
/// The reader takes its input in pieces of this size, so that its buffer never holds more than a page and a piece.
const PIECE_BYTES: usize = 4096;
/// Granule position of a page on which no packet ends.
const NO_GRANULE: u64 = u64::MAX;
/// A page sequence number that grows by this or more has gone backwards.
const BACKWARDS: u32 = 1 << 31;

const FLAG_CONTINUED: u8 = 1;
const FLAG_FIRST: u8 = 2;
const FLAG_LAST: u8 = 4;

// Where the fields of a header are.
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = 5;
const GRANULE_AT: usize = 6;
const SERIAL_AT: usize = 14;
const SEQUENCE_AT: usize = 18;
const CRC_AT: usize = 22;
const SEGMENTS_AT: usize = 26;

/// CRC-32 with generator 0x04c11db7, most significant bit first, start and final value 0. (Crates accelerate zlib's
/// CRC, which is the mirrored one.) `CRC[k][b]` is byte `b` followed by `k` zero bytes: eight bytes a step.
static CRC: [[u32; 256]; 8] = crc_tables();

const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before << 8) ^ tables[0][(before >> 24) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

fn crc(mut crc: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let [a, b, c, d] = (crc ^ be32(eight, 0)).to_be_bytes();
        crc = CRC[7][usize::from(a)]
            ^ CRC[6][usize::from(b)]
            ^ CRC[5][usize::from(c)]
            ^ CRC[4][usize::from(d)]
            ^ CRC[3][usize::from(eight[4])]
            ^ CRC[2][usize::from(eight[5])]
            ^ CRC[1][usize::from(eight[6])]
            ^ CRC[0][usize::from(eight[7])];
    }
    for &byte in rest {
        let [top, ..] = crc.to_be_bytes();
        crc = (crc << 8) ^ CRC[0][usize::from(top ^ byte)];
    }
    crc
}

/// The CRC of a whole page, its CRC field taken as zero.
fn page_crc(page: &[u8]) -> u32 {
    let crc_so_far = crc(crc(0, &page[..CRC_AT]), &[0; 4]);
    crc(crc_so_far, &page[SEGMENTS_AT..])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    be32(bytes, at).swap_bytes()
}

/// Where in its stream a packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// The stream's first packet.
    First,
    /// Any other.
    Middle,
    /// The stream's last packet.
    Last,
}

/// Writes one logical stream, one packet a page, so that a packet can leave as soon as it exists.
#[derive(Debug)]
pub struct PageWriter {
    serial: u32,
    sequence: u32,
}

impl PageWriter {
    /// A stream with this serial number, which should be random.
    #[must_use]
    pub fn new(serial: u32) -> Self {
        Self { serial, sequence: 0 }
    }

    /// Appends the page of one packet to `out`; a packet longer than a page holds (65,024 bytes) goes over several.
    /// `granule` is the position at the packet's end, in the codec's units.
    pub fn write(&mut self, packet: &[u8], granule: u64, kind: PageKind, out: &mut Vec<u8>) {
        let mut rest = packet;
        let mut flags = if kind == PageKind::First { FLAG_FIRST } else { 0 };
        while rest.len() >= MAX_BODY_BYTES {
            let (body, after) = rest.split_at(MAX_BODY_BYTES);
            self.page(flags, NO_GRANULE, &[FULL_SEGMENT; MAX_SEGMENTS], body, out);
            flags = FLAG_CONTINUED;
            rest = after;
        }
        if kind == PageKind::Last {
            flags |= FLAG_LAST;
        }
        let full = rest.len() / usize::from(FULL_SEGMENT);
        let mut lacing = [FULL_SEGMENT; MAX_SEGMENTS];
        // The remainder is below 255, so it fits; a zero is how a multiple of 255 ends.
        lacing[full] = (rest.len() % usize::from(FULL_SEGMENT)) as u8;
        self.page(flags, granule, &lacing[..=full], rest, out);
    }

    fn page(&mut self, flags: u8, granule: u64, lacing: &[u8], body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(HEADER_BYTES + lacing.len() + body.len());
        out.extend_from_slice(CAPTURE);
        out.extend_from_slice(&[0, flags]);
        out.extend_from_slice(&granule.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.push(lacing.len() as u8);
        out.extend_from_slice(lacing);
        out.extend_from_slice(body);
        let crc = page_crc(&out[start..]);
        out[start + CRC_AT..start + SEGMENTS_AT].copy_from_slice(&crc.to_le_bytes());
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// Counters of a reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OggStats {
    /// Pages whose CRC was right.
    pub pages: u64,
    /// Packets handed over.
    pub packets: u64,
    /// Logical streams begun: a first-page flag, or another serial.
    pub streams: u64,
    /// Pages that the sequence numbers say are missing.
    pub lost_pages: u64,
    /// Pages whose sequence number went backwards.
    pub backward_pages: u64,
    /// Candidates whose CRC was wrong: damaged pages, and junk that looked like one.
    pub crc_errors: u64,
    /// Bytes that belong to no page.
    pub junk_bytes: u64,
    /// Packets of which a part is missing.
    pub broken_packets: u64,
    /// Pages of streams that were passed over: see [`PacketReader::of`].
    pub other_pages: u64,
}

/// The content of a stream, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A packet.
    Packet(Packet<'a>),
    /// A packet ended here, but a part of it is missing.
    Broken {
        /// The end of its page, if no further packet ends on this page.
        page_end: Option<PageEnd>,
    },
    /// Pages are missing before what comes next.
    Lost {
        /// Their number, by the sequence numbers: bound it before you act on it.
        pages: u32,
    },
}

impl Event<'_> {
    /// The end of the page, if nothing further ends on it.
    #[must_use]
    pub fn page_end(&self) -> Option<PageEnd> {
        match *self {
            Event::Packet(Packet { page_end, .. }) | Event::Broken { page_end } => page_end,
            Event::Lost { .. } => None,
        }
    }
}

/// One packet, borrowed until the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its bytes; possibly none.
    pub data: &'a [u8],
    /// False if it was longer than [`MAX_PACKET_BYTES`] and `data` is only its beginning.
    pub complete: bool,
    /// Its logical stream's serial number.
    pub serial: u32,
    /// It ends on its stream's first page.
    pub first_page: bool,
    /// The end of its page, if no further packet ends on this page.
    pub page_end: Option<PageEnd>,
}

/// What a page says of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEnd {
    /// The position at the end of the page's last packet, in the codec's units; None if the page gives none.
    pub granule: Option<u64>,
    /// The stream ends with this page.
    pub ends_stream: bool,
}

/// At most this many candidates are open at once. With one more, the oldest counts as junk. Of pages with sound, one
/// in 500,000 holds the capture pattern by chance. Only input that was made to be costly holds it more often, and
/// each candidate costs a CRC over up to 65 kB.
const MAX_CANDIDATES: usize = 64;

/// At most this many streams that are passed over are remembered. A film has a few.
const MAX_OTHER_STREAMS: usize = 16;

/// Reads packets out of bytes in any split, whatever they hold. See the module.
///
/// Memory: at most a page and a piece of input, one packet, and the candidates in them.
#[derive(Debug, Default)]
pub struct PacketReader {
    /// Bytes that are not decided yet.
    buffer: Vec<u8>,
    /// `buffer` has been searched for capture patterns up to here.
    scanned: usize,
    /// `buffer` has been handed over, or given up, up to here.
    consumed: usize,
    /// In the order of their starts.
    candidates: Vec<Candidate>,
    stream: Logical,
}

/// A place where a page may begin.
#[derive(Debug)]
struct Candidate {
    start: usize,
    /// The buffer must reach this far for the next stage.
    need: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The fixed part of the header is awaited.
    Header,
    /// The lacing values are awaited.
    Lacing,
    /// The body is awaited, and with it the CRC.
    Body,
    /// A page with a right CRC, of a stream not met before, inside the range that an earlier candidate claims. It
    /// waits until the earlier one proves false.
    Verified,
}

impl PacketReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader of streams whose first packet begins with `magic`. Streams that begin in another way are passed over,
    /// also if their pages come in between. A stream whose first page was missed is read.
    #[must_use]
    pub fn of(magic: &'static [u8]) -> Self {
        let mut reader = Self::default();
        reader.stream.magic = magic;
        reader
    }

    /// Takes the next bytes and hands over what they complete.
    pub fn read(&mut self, bytes: &[u8], mut sink: impl FnMut(Event<'_>)) {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.buffer.extend_from_slice(piece);
            self.scan();
            self.resolve(&mut sink);
            self.discard();
        }
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> OggStats {
        self.stream.stats
    }

    /// Bytes held back until more come.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() + self.stream.held.len()
    }

    /// Finds the capture patterns in the new bytes.
    fn scan(&mut self) {
        while let Some(window) = self
            .buffer
            .get(self.scanned..)
            .filter(|w| w.len() >= CAPTURE.len())
        {
            let starts = &window[..=window.len() - CAPTURE.len()];
            let Some(found) = starts.iter().position(|&byte| byte == CAPTURE[0]) else {
                self.scanned += starts.len();
                break;
            };
            let start = self.scanned + found;
            if window[found..].starts_with(CAPTURE) {
                self.candidates.push(Candidate {
                    start,
                    need: start + HEADER_BYTES,
                    stage: Stage::Header,
                });
            }
            self.scanned = start + 1;
        }
    }

    /// Decides everything that the buffer can decide, in the order in which single bytes would have decided it.
    fn resolve(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        loop {
            if self
                .candidates
                .first()
                .is_some_and(|c| c.stage == Stage::Verified)
            {
                self.take_page(0, sink);
                continue;
            }
            // Candidates further on begin later, so they need more bytes than the last of these.
            let near = self.candidates.len().min(MAX_CANDIDATES + 1);
            let open = self.candidates[..near]
                .iter()
                .enumerate()
                .filter(|(_, c)| c.stage != Stage::Verified);
            let Some((index, next)) = open.min_by_key(|(_, c)| c.need) else {
                break;
            };
            let (start, need, stage) = (next.start, next.need, next.stage);
            if need > self.buffer.len() {
                break;
            }
            if near > MAX_CANDIDATES && self.candidates[MAX_CANDIDATES].start + CAPTURE.len() <= need {
                self.stream.stats.crc_errors += 1;
                self.candidates.remove(0);
                continue;
            }
            let page = &self.buffer[start..need];
            match stage {
                Stage::Header if page[VERSION_AT] != 0 => {
                    self.candidates.remove(index);
                }
                Stage::Header => {
                    self.candidates[index].need += usize::from(page[SEGMENTS_AT]);
                    self.candidates[index].stage = Stage::Lacing;
                }
                Stage::Lacing => {
                    let body: usize = page[HEADER_BYTES..].iter().map(|&l| usize::from(l)).sum();
                    self.candidates[index].need += body;
                    self.candidates[index].stage = Stage::Body;
                }
                Stage::Body if page_crc(page) != le32(page, CRC_AT) => {
                    self.stream.stats.crc_errors += 1;
                    self.candidates.remove(index);
                }
                Stage::Body if index == 0 || self.believed(index) => self.take_page(index, sink),
                Stage::Body | Stage::Verified => self.candidates[index].stage = Stage::Verified,
            }
        }
    }

    /// Whether a right page inside the range of an earlier candidate proves that candidate false. It does if it
    /// belongs to the stream that is being read, or to the stream that the earlier candidate names. Any other page
    /// may be part of a packet.
    fn believed(&self, index: usize) -> bool {
        let serial_at = |c: &Candidate| le32(&self.buffer, c.start + SERIAL_AT);
        let serial = serial_at(&self.candidates[index]);
        match self.stream.serial {
            None => true,
            Some(current) if current == serial => true,
            Some(_) => self.candidates[..index]
                .iter()
                .any(|c| c.stage != Stage::Header && serial_at(c) == serial),
        }
    }

    /// Hands over the page of a candidate, after the verified ones before it. Candidates that overlap it were false.
    fn take_page(&mut self, index: usize, sink: &mut impl FnMut(Event<'_>)) {
        let last_start = self.candidates[index].start;
        for at in 0..=index {
            let candidate = &self.candidates[at];
            let verified = candidate.stage == Stage::Verified && candidate.need <= last_start;
            if candidate.start >= self.consumed && (verified || at == index) {
                self.stream.stats.junk_bytes += (candidate.start - self.consumed) as u64;
                self.consumed = candidate.need;
                self.stream
                    .page(&self.buffer[candidate.start..candidate.need], sink);
            }
        }
        let consumed = self.consumed;
        self.candidates.retain(|c| c.start >= consumed);
        self.scanned = self.scanned.max(consumed);
    }

    /// Drops the bytes that are decided.
    fn discard(&mut self) {
        let keep = self.candidates.first().map_or(self.scanned, |c| c.start);
        self.stream.stats.junk_bytes += (keep - self.consumed) as u64;
        self.buffer.drain(..keep);
        self.scanned -= keep;
        self.consumed = 0;
        for candidate in &mut self.candidates {
            candidate.start -= keep;
            candidate.need -= keep;
        }
    }
}

/// The logical stream being read: pages in, packets out.
#[derive(Debug, Default)]
struct Logical {
    serial: Option<u32>,
    next_sequence: u32,
    unfinished: Unfinished,
    /// The packet so far, while it is [`Unfinished::Held`].
    held: Vec<u8>,
    /// The first packet of a stream that is read begins with this.
    magic: &'static [u8],
    /// Serial numbers of streams that are passed over.
    others: Vec<u32>,
    stats: OggStats,
}

/// A packet that continues on the next page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Unfinished {
    /// There is none.
    #[default]
    None,
    /// It is held, from its beginning.
    Held,
    /// Its beginning was lost, so the rest is skipped.
    Skipped,
}

impl Logical {
    /// Takes one page that is whole and right.
    fn page(&mut self, page: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        self.stats.pages += 1;
        let flags = page[FLAGS_AT];
        let serial = le32(page, SERIAL_AT);
        let first_page = flags & FLAG_FIRST != 0;
        if self.is_passed_over(serial, first_page, page) {
            self.stats.other_pages += 1;
            return;
        }
        self.follow_sequence(serial, le32(page, SEQUENCE_AT), first_page, sink);

        let (lacing, mut body) = page[HEADER_BYTES..].split_at(usize::from(page[SEGMENTS_AT]));
        let last_end = lacing.iter().rposition(|&l| l < FULL_SEGMENT);
        match (flags & FLAG_CONTINUED != 0, self.unfinished) {
            (true, Unfinished::None) => self.unfinished = Unfinished::Skipped,
            (false, Unfinished::Held | Unfinished::Skipped) => self.broken(None, sink),
            (true, _) | (false, Unfinished::None) => {}
        }

        let granule = u64::from(le32(page, GRANULE_AT)) | u64::from(le32(page, GRANULE_AT + 4)) << 32;
        let end = PageEnd {
            granule: (granule != NO_GRANULE).then_some(granule),
            ends_stream: flags & FLAG_LAST != 0,
        };
        let mut length = 0;
        for (segment, &lace) in lacing.iter().enumerate() {
            length += usize::from(lace);
            if lace == FULL_SEGMENT {
                continue;
            }
            let (part, after) = body.split_at(length);
            (body, length) = (after, 0);
            let page_end = (Some(segment) == last_end).then_some(end);
            match self.unfinished {
                Unfinished::Skipped => {
                    self.broken(page_end, sink);
                    continue;
                }
                Unfinished::Held => self.hold(part),
                Unfinished::None => {}
            }
            let whole = if self.unfinished == Unfinished::Held {
                &self.held[..]
            } else {
                part
            };
            self.stats.packets += 1;
            sink(Event::Packet(Packet {
                // One byte more than the longest is held, so that a cut packet shows.
                data: &whole[..whole.len().min(MAX_PACKET_BYTES)],
                complete: whole.len() <= MAX_PACKET_BYTES,
                serial,
                first_page,
                page_end,
            }));
            self.unfinished = Unfinished::None;
            self.held.clear();
        }
        if length > 0 && self.unfinished != Unfinished::Skipped {
            self.hold(body);
            self.unfinished = Unfinished::Held;
        }
    }

    /// Whether a page belongs to a stream that is not read. The first page of a stream decides.
    fn is_passed_over(&mut self, serial: u32, first_page: bool, page: &[u8]) -> bool {
        if !first_page {
            return self.others.contains(&serial);
        }
        self.others.retain(|&other| other != serial);
        let body = &page[HEADER_BYTES + usize::from(page[SEGMENTS_AT])..];
        if body.starts_with(self.magic) {
            return false;
        }
        if self.others.len() == MAX_OTHER_STREAMS {
            self.others.remove(0);
        }
        self.others.push(serial);
        true
    }

    /// Notices a new stream and missing pages.
    fn follow_sequence(&mut self, serial: u32, sequence: u32, first: bool, sink: &mut impl FnMut(Event<'_>)) {
        let step = sequence.wrapping_sub(self.next_sequence);
        self.next_sequence = sequence.wrapping_add(1);
        if first || self.serial != Some(serial) {
            self.serial = Some(serial);
            self.stats.streams += 1;
            self.forget_unfinished();
        } else if step >= BACKWARDS {
            self.stats.backward_pages += 1;
        } else if step > 0 {
            self.stats.lost_pages += u64::from(step);
            // The packet would have ended on a page that is missing, and is counted with that page.
            self.forget_unfinished();
            sink(Event::Lost { pages: step });
        }
    }

    fn hold(&mut self, part: &[u8]) {
        let room = (MAX_PACKET_BYTES + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn broken(&mut self, page_end: Option<PageEnd>, sink: &mut impl FnMut(Event<'_>)) {
        self.stats.broken_packets += 1;
        self.forget_unfinished();
        sink(Event::Broken { page_end });
    }

    fn forget_unfinished(&mut self) {
        self.unfinished = Unfinished::None;
        self.held.clear();
    }
}
