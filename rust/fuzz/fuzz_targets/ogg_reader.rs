//! The engine's bytes, however bad: Ogg, Opus and concealment.
//!
//! The last two bytes of the input choose how it is read, so that any Ogg file is a seed. A CRC is what a fuzzer cannot
//! guess, so in half of the runs the CRCs of all claimed pages are put right first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pxbridge_core::codec::ogg::{Event, MAX_PACKET_BYTES, MAX_PAGE_BYTES, PacketReader};
use pxbridge_core::codec::stream::OggOpusReader;

const HEADER_BYTES: usize = 27;
/// A page, a piece of 4096 bytes, and the packet being put together.
const HELD_LIMIT: usize = MAX_PAGE_BYTES + 4096 + MAX_PACKET_BYTES + 1;
/// A lost page may yield a second, a packet 120 ms.
const MAX_LOST_MS: usize = 1000;
const MAX_PACKET_MS: usize = 120;

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc: u32, &byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| (crc << 1) ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while at + HEADER_BYTES <= bytes.len() {
        let claimed = bytes[at..].starts_with(b"OggS").then(|| {
            let segments = usize::from(bytes[at + 26]);
            let lacing = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + segments)?;
            let end = at + HEADER_BYTES + segments + lacing.iter().map(|&l| usize::from(l)).sum::<usize>();
            (end <= bytes.len()).then_some(end)
        });
        if let Some(Some(end)) = claimed {
            bytes[at + 22..at + 26].fill(0);
            let crc = crc(&bytes[at..end]);
            bytes[at + 22..at + 26].copy_from_slice(&crc.to_le_bytes());
            at = end;
        } else {
            at += 1;
        }
    }
}

fn events(bytes: &[u8], piece: usize) -> (Vec<(u8, usize, u32)>, usize) {
    let (mut events, mut limit_ms) = (Vec::new(), 0);
    let mut reader = PacketReader::new();
    for part in bytes.chunks(piece) {
        reader.read(part, |event| {
            events.push(match event {
                Event::Packet(packet) => {
                    assert!(packet.data.len() <= MAX_PACKET_BYTES);
                    (packet.data.last().copied().unwrap_or(0), packet.data.len(), packet.serial)
                }
                Event::Broken { page_end } => (1, usize::from(page_end.is_some()), 0),
                Event::Lost { pages } => (2, usize::MAX, pages),
            });
            limit_ms += if matches!(event, Event::Lost { .. }) { MAX_LOST_MS } else { MAX_PACKET_MS };
        });
        assert!(reader.held_bytes() <= HELD_LIMIT);
    }
    (events, limit_ms)
}

fuzz_target!(|data: &[u8]| {
    let Some((bytes, &[rate, split])) = data.split_last_chunk() else { return };
    let mut bytes = bytes.to_vec();
    if rate & 1 == 1 {
        mend(&mut bytes);
    }
    let rate_hz = [8_000, 16_000, 24_000, 48_000][usize::from(rate >> 1) % 4];
    let piece = usize::from(split) * usize::from(split) / 4 + 1;

    let (whole, limit_ms) = events(&bytes, usize::MAX);
    assert_eq!(events(&bytes, piece).0, whole);

    let mut heard = Vec::new();
    let mut reader = OggOpusReader::new(rate_hz).expect("a rate Opus knows");
    for part in bytes.chunks(piece) {
        reader.read(part, &mut heard);
        assert!(reader.held_bytes() <= HELD_LIMIT);
    }
    assert_eq!(reader.stats().samples, heard.len() as u64);
    assert!(heard.len() <= limit_ms * rate_hz as usize / 1000);
    assert!(heard.iter().all(|sample| sample.abs() <= 1.0));
    reader.conceal(rate_hz as usize / 50, &mut heard);

    let mut of_file = Vec::new();
    let mut reader = OggOpusReader::new(rate_hz).expect("a rate Opus knows").trimmed();
    bytes.chunks(piece).for_each(|part| reader.read(part, &mut of_file));
    assert_eq!(reader.stats().samples, of_file.len() as u64);
    assert!(of_file.len() + rate_hz as usize / 50 <= heard.len());
});
