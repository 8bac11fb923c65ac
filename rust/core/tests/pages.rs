//! The page reader under everything: any split, any junk, anything missing.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use pxbridge_core::codec::ogg::{
    Event, MAX_PACKET_BYTES, MAX_PAGE_BYTES, PacketReader, PageKind, PageWriter,
};

const SERIAL: u32 = 0x5eed_cafe;
/// What the reader may hold back: a page, a piece of 4096 bytes, and the packet being put together.
const HELD_LIMIT: usize = MAX_PAGE_BYTES + 4096 + MAX_PACKET_BYTES + 1;

/// An event that owns its packet.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Packet(Vec<u8>),
    Cut,
    Broken,
    Lost(u32),
}

fn hear(event: Event<'_>) -> Heard {
    match event {
        Event::Packet(packet) if packet.complete => Heard::Packet(packet.data.to_vec()),
        Event::Packet(_) => Heard::Cut,
        Event::Broken { .. } => Heard::Broken,
        Event::Lost { pages } => Heard::Lost(pages),
    }
}

fn read_split(bytes: &[u8], cuts: &[usize]) -> Vec<Heard> {
    let mut reader = PacketReader::new();
    let mut heard = Vec::new();
    let (mut at, mut cut) = (0, cuts.iter().cycle());
    while at < bytes.len() {
        let end = cut
            .next()
            .map_or(bytes.len(), |step| (at + step.max(&1)).min(bytes.len()));
        reader.read(&bytes[at..end], |event| heard.push(hear(event)));
        assert!(reader.held_bytes() <= HELD_LIMIT, "{}", reader.held_bytes());
        at = end;
    }
    heard
}

fn read(bytes: &[u8]) -> Vec<Heard> {
    read_split(bytes, &[])
}

/// One Vec of bytes per packet.
fn pages(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut writer = PageWriter::new(SERIAL);
    let mut granule = 0;
    let last = packets.len().saturating_sub(1);
    let written = packets.iter().enumerate().map(|(at, packet)| {
        let mut page = Vec::new();
        granule += 960;
        let kind = match at {
            0 => PageKind::First,
            at if at == last => PageKind::Last,
            _ => PageKind::Middle,
        };
        writer.write(packet, granule, kind, &mut page);
        page
    });
    written.collect()
}

fn heard_of(packets: &[Vec<u8>]) -> Vec<Heard> {
    packets.iter().cloned().map(Heard::Packet).collect()
}

/// A page of arbitrary make, with the right CRC of a page writer's, by way of its own CRC.
fn page_of(flags: u8, sequence: u32, serial: u32, lacing: &[u8], fill: u8) -> Vec<u8> {
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend_from_slice(&u64::MAX.to_le_bytes());
    page.extend_from_slice(&serial.to_le_bytes());
    page.extend_from_slice(&sequence.to_le_bytes());
    page.extend_from_slice(&[0; 4]);
    page.push(u8::try_from(lacing.len()).unwrap());
    page.extend_from_slice(lacing);
    page.resize(
        page.len() + lacing.iter().map(|&l| usize::from(l)).sum::<usize>(),
        fill,
    );
    let crc = slow_crc(&page);
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}

/// RFC 3533's CRC, bit by bit.
fn slow_crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc: u32, &byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| {
            if crc >> 31 == 1 {
                (crc << 1) ^ 0x04c1_1db7
            } else {
                crc << 1
            }
        })
    })
}

/// Junk of the worst kinds: noise, false headers that claim much, pages cut short.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..200);
    let false_header = (vec(any::<u8>(), 0..300), any::<[u8; 21]>(), any::<u8>())
        .prop_map(|(tail, rest, segments)| [&b"OggS\0"[..], &rest, &[segments], &tail].concat());
    let pattern = Just(b"OggS".to_vec());
    let cut = (vec(any::<u8>(), 1..600), any::<bool>(), 0.0..1.0f64).prop_map(|(packet, ours, share)| {
        let mut page = Vec::new();
        PageWriter::new(if ours { SERIAL } else { 7 }).write(&packet, 0, PageKind::Middle, &mut page);
        // So much is missing that what follows cannot make it whole by chance.
        page.truncate(((page.len() - 5) as f64 * share) as usize);
        page
    });
    vec(prop_oneof![noise, false_header, pattern, cut], 0..4).prop_map(|parts| parts.concat())
}

fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..700), 1..20)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4usize, 1..300usize, 1..20_000usize], 1..20)
}

#[test]
fn lengths_at_every_border_of_the_lacing_survive() {
    for length in [
        0,
        1,
        254,
        255,
        256,
        509,
        510,
        511,
        255 * 200,
        MAX_PACKET_BYTES - 1,
        MAX_PACKET_BYTES,
    ] {
        let packets = vec![vec![1; 3], (0..length).map(|i| i as u8).collect(), vec![2; 3]];
        assert_eq!(read(&pages(&packets).concat()), heard_of(&packets), "{length}");
    }
}

#[test]
fn a_packet_longer_than_any_is_handed_over_cut_and_the_next_is_whole() {
    for length in [
        MAX_PACKET_BYTES + 1,
        65_024,
        65_025,
        65_026,
        2 * 65_025,
        1_000_000,
    ] {
        let packets = vec![vec![1; 3], vec![9; length], vec![2; 3]];
        let expected = [Heard::Packet(vec![1; 3]), Heard::Cut, Heard::Packet(vec![2; 3])];
        assert_eq!(
            read_split(&pages(&packets).concat(), &[1000]),
            expected,
            "{length}"
        );
    }
}

#[test]
fn a_lost_page_is_told_once_and_its_neighbours_survive() {
    let packets: Vec<Vec<u8>> = (0..10).map(|i| vec![i; 50]).collect();
    let mut wire = pages(&packets);
    wire.drain(4..7);
    let mut expected = heard_of(&packets[..4]);
    expected.push(Heard::Lost(3));
    expected.extend(heard_of(&packets[7..]));
    assert_eq!(read(&wire.concat()), expected);
}

#[test]
fn a_damaged_page_is_dropped_and_told_as_lost_by_the_next() {
    let packets: Vec<Vec<u8>> = (0..5).map(|i| vec![i; 50]).collect();
    for byte in 0..pages(&packets)[2].len() {
        let mut wire = pages(&packets);
        wire[2][byte] ^= 0x10;
        let mut expected = heard_of(&packets[..2]);
        expected.push(Heard::Lost(1));
        expected.extend(heard_of(&packets[3..]));
        assert_eq!(read(&wire.concat()), expected, "byte {byte}");
    }
}

#[test]
fn a_page_cut_short_delays_nothing() {
    let packets: Vec<Vec<u8>> = (0..5).map(|i| vec![i; 5000]).collect();
    let mut wire = pages(&packets);
    wire[2].truncate(100);
    let mut reader = PacketReader::new();
    let mut heard = 0;
    reader.read(&wire[..3].concat(), |_| heard += 1);
    assert_eq!(heard, 2);
    reader.read(&wire[3], |_| heard += 1);
    assert_eq!(heard, 4, "the loss, and the packet behind the cut page at once");
}

#[test]
fn what_is_left_of_a_packet_whose_beginning_was_lost_is_not_taken_for_a_packet() {
    let long = vec![3; 70_000];
    let mut writer = PageWriter::new(SERIAL);
    let mut wire = Vec::new();
    writer.write(b"a", 0, PageKind::First, &mut wire);
    let before = wire.len();
    writer.write(&long, 0, PageKind::Middle, &mut wire);
    wire.drain(before..before + MAX_PAGE_BYTES);
    writer.write(b"b", 0, PageKind::Last, &mut wire);
    let expected = [
        Heard::Packet(b"a".to_vec()),
        Heard::Lost(1),
        Heard::Broken,
        Heard::Packet(b"b".to_vec()),
    ];
    assert_eq!(read(&wire), expected);
}

#[test]
fn a_packet_that_does_not_go_on_is_broken() {
    let begun = page_of(2, 0, SERIAL, &[255], 1);
    let other = page_of(0, 1, SERIAL, &[3], 2);
    assert_eq!(
        read(&[begun, other].concat()),
        [Heard::Broken, Heard::Packet(vec![2; 3])]
    );
}

#[test]
fn a_second_beginning_with_the_same_or_another_serial_is_no_loss() {
    for serial in [SERIAL, 3] {
        let wire = [
            page_of(2, 0, SERIAL, &[3], 1),
            page_of(0, 1, SERIAL, &[3], 2),
            page_of(2, 0, serial, &[3], 3),
            page_of(0, 1, serial, &[3], 4),
        ];
        let expected: Vec<_> = (1..=4).map(|fill| Heard::Packet(vec![fill; 3])).collect();
        assert_eq!(read(&wire.concat()), expected);
    }
}

#[test]
fn a_writer_that_does_not_count_its_pages_is_read() {
    let wire: Vec<_> = (0..4).map(|fill| page_of(0, 0, SERIAL, &[3], fill)).collect();
    let expected: Vec<_> = (0..4).map(|fill| Heard::Packet(vec![fill; 3])).collect();
    assert_eq!(read(&wire.concat()), expected);
}

#[test]
fn a_page_of_another_stream_inside_false_claims_comes_through_when_they_prove_false() {
    let first = page_of(2, 0, SERIAL, &[3], 1);
    let mut claim = page_of(0, 1, SERIAL, &[200, 200], 9);
    claim.truncate(40);
    let other = page_of(2, 0, 99, &[3], 2);
    let wire = [first, claim, other, vec![0; 400]].concat();
    assert_eq!(
        read(&wire),
        [Heard::Packet(vec![1; 3]), Heard::Packet(vec![2; 3])]
    );
}

#[test]
fn an_ogg_stream_inside_a_packet_is_left_there() {
    let inner = page_of(2, 0, 99, &[3], 2);
    let packets = vec![vec![1; 3], inner, vec![2; 3]];
    assert_eq!(read_split(&pages(&packets).concat(), &[1]), heard_of(&packets));
}

#[test]
fn capture_patterns_without_end_are_read_in_fair_time() {
    // The costliest junk found: every fifth byte begins a page that claims 7 kB.
    let wire = b"OggS\0".repeat(60_000);
    let mut reader = PacketReader::new();
    reader.read(&wire, |_| {});
    assert!(reader.held_bytes() <= HELD_LIMIT);
    assert_eq!(reader.stats().pages, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_in_any_split(packets in packets(), cuts in cuts()) {
        prop_assert_eq!(read_split(&pages(&packets).concat(), &cuts), heard_of(&packets));
    }

    #[test]
    fn junk_between_pages_never_costs_a_page(packets in packets(), junk in vec(junk(), 20), cuts in cuts()) {
        let wire: Vec<u8> =
            pages(&packets).into_iter().zip(junk).flat_map(|(page, junk)| [junk, page].concat()).collect();
        prop_assert_eq!(read_split(&wire, &cuts), heard_of(&packets));
    }

    #[test]
    fn how_bytes_are_split_changes_nothing(
        packets in packets(), junk in vec(junk(), 20), cuts in cuts(), lost in any::<prop::sample::Index>(),
        damaged in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(),
    ) {
        let mut wire = pages(&packets);
        let at = flip.index(wire[damaged.index(packets.len())].len());
        wire[damaged.index(packets.len())][at] ^= 1;
        wire.remove(lost.index(packets.len()));
        let wire: Vec<u8> = wire.into_iter().zip(junk).flat_map(|(page, junk)| [page, junk].concat()).collect();
        prop_assert_eq!(read_split(&wire, &cuts), read(&wire));
        prop_assert_eq!(read_split(&wire, &[1]), read(&wire));
    }

    #[test]
    fn whole_pages_of_any_make_are_survived(
        makes in vec((0..8u8, 0..5u32, 0..2u32, vec(prop_oneof![Just(255u8), any::<u8>()], 0..60)), 0..8),
        cuts in cuts(),
    ) {
        let wire: Vec<u8> =
            makes.iter().flat_map(|(flags, seq, serial, lacing)| page_of(*flags, *seq, *serial, lacing, 0)).collect();
        let mut pages = 0;
        let mut reader = PacketReader::new();
        for part in wire.chunks(cuts[0]) {
            reader.read(part, |event| if let Event::Packet(p) = event { assert!(p.data.len() <= MAX_PACKET_BYTES) });
            pages = reader.stats().pages;
        }
        prop_assert_eq!(pages, makes.len() as u64);
    }
}

/// Reading must not cost more than a few times its bytes, whoever wrote them: the CRCs are what costs, and each false
/// beginning that is believed for long has one.
#[test]
fn false_beginnings_that_claim_much_do_not_pile_up() {
    let mut claim = b"OggS\0".to_vec();
    claim.extend([0xFF; 2]);
    let junk: Vec<u8> = claim.iter().copied().cycle().take(256 * 1024).collect();
    let good = page_of(0, 0, 7, &[3], 1);
    let mut bytes = junk.clone();
    bytes.extend(&good);
    let mut reader = PacketReader::new();
    let mut heard = 0;
    let mut most_held = 0;
    for piece in bytes.chunks(1000) {
        reader.read(piece, |event| {
            heard += usize::from(matches!(event, Event::Packet(_)))
        });
        most_held = most_held.max(reader.held_bytes());
    }
    assert_eq!(heard, 1, "the page behind the junk");
    // Sixty-four claims begin within 448 bytes: what is older is given up.
    assert!(most_held < 64 * claim.len() + 4096 + good.len(), "{most_held}");
}
