//! A browser's wire: PersonaPlex's messages, with Ogg Opus in them.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, MediaFrame, Message, Messages};
use pxbridge_core::codec::engine::OggOpus;
use pxbridge_core::codec::opus::TOWARDS_ENGINE;
use pxbridge_core::codec::stream::{OggOpusReader, OggOpusWriter};
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::line::Line;
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::IntakeConfig;

const RATE_HZ: usize = 24_000;
const PACKET: usize = RATE_HZ / 50;

fn carrier() -> Carrier {
    Carrier::named("browser", "", LineRate::KHZ_24, Encoding::Pcm16).unwrap()
}

fn tone(samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|n| 0.3 * (n as f32 * 440.0 * std::f32::consts::TAU / RATE_HZ as f32).sin())
        .collect()
}

/// The messages of a client that says this, 20 ms in each.
fn said(pcm: &[f32]) -> Vec<Vec<u8>> {
    let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 7).unwrap();
    pcm.chunks(PACKET)
        .map(|packet| {
            let mut message = vec![1];
            writer.write(packet, &mut message);
            message
        })
        .collect()
}

#[test]
fn what_a_client_says_is_read_whole() {
    let mut reader = carrier().reader;
    let mut pcm = Vec::new();
    for message in said(&tone(RATE_HZ)) {
        let frame = reader.read(Message::binary(&message), &mut pcm).unwrap();
        assert_eq!((frame.samples, frame.malformed), (PACKET, false));
    }
    assert_eq!(pcm.len(), RATE_HZ);
    let energy: f32 = pcm.iter().map(|sample| sample * sample).sum();
    assert!((energy / RATE_HZ as f32 - 0.045).abs() < 0.005, "{energy}");
}

#[test]
fn a_client_gets_the_headers_first_and_then_a_page_for_each_packet() {
    let mut writer = carrier().writer;
    let mut out = Messages::default();
    let pcm = tone(4 * PACKET);
    writer.media(&pcm, &mut out);
    writer.media(&pcm, &mut out);
    assert!(
        out.iter()
            .all(|message| !message.is_text && message.bytes[0] == 1)
    );
    let pages = |bytes: &[u8]| bytes.windows(4).filter(|&four| four == b"OggS").count();
    let counts: Vec<usize> = out.iter().map(|message| pages(message.bytes)).collect();
    assert_eq!(counts, [2, 4, 4]);
    let mut reader = OggOpusReader::new(RATE_HZ as u32).unwrap();
    let mut heard = Vec::new();
    out.iter()
        .for_each(|message| reader.read(&message.bytes[1..], &mut heard));
    assert_eq!(heard.len(), 8 * PACKET);
    assert_eq!(reader.stats().ogg.crc_errors, 0);
}

#[test]
fn there_are_no_marks_and_a_clear_is_metadata() {
    let mut writer = carrier().writer;
    let mut out = Messages::default();
    assert!(!writer.mark("0-1", &mut out));
    assert!(out.is_empty());
    writer.clear(&mut out);
    let clear: Vec<&[u8]> = out.iter().map(|message| message.bytes).collect();
    assert_eq!(clear, [b"\x04{\"clear\":true}"]);
}

#[test]
fn other_kinds_are_no_media() {
    let mut pcm = Vec::new();
    let mut reader = carrier().reader;
    for bytes in [&b""[..], b"\x00", b"\x02hello", b"\x03\x00", b"\x06"] {
        assert_eq!(reader.read(Message::binary(bytes), &mut pcm), None);
    }
    assert_eq!(reader.read(Message::text(b"\x01OggS"), &mut pcm), None);
    assert!(pcm.is_empty());
}

#[test]
fn damage_is_counted_and_what_follows_is_heard() {
    let mut reader = carrier().reader;
    let mut pcm = Vec::new();
    let mut messages = said(&tone(10 * PACKET));
    let last = messages[3].len() - 1;
    messages[3][last] ^= 0xFF;
    let frames: Vec<MediaFrame> = messages
        .iter()
        .filter_map(|message| reader.read(Message::binary(message), &mut pcm))
        .collect();
    assert_eq!(frames.len(), 10);
    // The reader looks for the next whole page, which may be in the next message.
    let malformed = frames.iter().filter(|frame| frame.malformed).count();
    assert!((1..=2).contains(&malformed), "{malformed}");
    assert!(pcm.len() >= 9 * PACKET);
}

#[test]
fn a_small_message_cannot_ask_for_minutes_of_sound() {
    // A page of 255 packets of one byte, each of which claims to be 120 ms long: half a minute in 500 bytes.
    let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 7).unwrap();
    let mut bytes = vec![1];
    writer.headers(&mut bytes);
    let mut reader = carrier().reader;
    let mut pcm = Vec::new();
    reader.read(Message::binary(&bytes), &mut pcm);
    let mut message = vec![1];
    for number in 2..6_u32 {
        message.extend_from_slice(&page_of_empty_packets(number));
    }
    reader.read(Message::binary(&message), &mut pcm);
    assert!(pcm.len() <= 2 * RATE_HZ, "{} s", pcm.len() / RATE_HZ);
    assert!(!pcm.is_empty());
}

/// A page of the stream 7 that holds 255 packets of two bytes: code 3, six frames of 20 ms, without a payload.
fn page_of_empty_packets(number: u32) -> Vec<u8> {
    const PACKETS: usize = 255;
    let mut page = b"OggS\0\0".to_vec();
    page.extend_from_slice(&u64::from(number).to_le_bytes());
    page.extend_from_slice(&7_u32.to_le_bytes());
    page.extend_from_slice(&number.to_le_bytes());
    page.extend_from_slice(&[0; 4]);
    page.push(PACKETS as u8);
    page.extend_from_slice(&[2; PACKETS]);
    for _ in 0..PACKETS {
        page.extend_from_slice(&[0xFB, 6]);
    }
    let crc = crc(&page).to_le_bytes();
    page[22..26].copy_from_slice(&crc);
    page
}

/// Ogg's checksum (RFC 3533 §6), bit by bit.
fn crc(page: &[u8]) -> u32 {
    page.iter().fold(0, |crc: u32, &byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| {
            (crc << 1) ^ (0x04C1_1DB7 & 0_u32.wrapping_sub(crc >> 31))
        })
    })
}

#[test]
fn a_line_tells_how_long_each_side_has_spoken() {
    let rate = LineRate::KHZ_24;
    let codec = Box::new(OggOpus::new(rate, 1).unwrap());
    let intake = IntakeConfig {
        gate_ms: 0,
        ..IntakeConfig::default()
    };
    let mut line = Line::new(rate, carrier(), codec, intake, PlayoutConfig::default());
    let _ = line.poll(0);
    let _ = line.open_engine(0).unwrap();
    let mut pcm = vec![0.0; RATE_HZ];
    pcm.extend(speech_like(2 * RATE_HZ));
    for (n, message) in said(&pcm).iter().enumerate() {
        line.phone_message(Message::binary(message), (n as u64 + 1) * 20_000);
    }
    let (caller_us, agent_us) = line.spoken_us();
    assert!((1_300_000..=2_100_000).contains(&caller_us), "{caller_us}");
    assert_eq!(agent_us, 0);
}

/// A voice's loudness: syllables of 200 ms with 100 ms between them.
fn speech_like(samples: usize) -> Vec<f32> {
    let mut pcm = tone(samples);
    for (n, sample) in pcm.iter_mut().enumerate() {
        if n % (RATE_HZ * 3 / 10) >= RATE_HZ / 5 {
            *sample *= 0.001;
        }
    }
    pcm
}

proptest! {
    #[test]
    fn whatever_a_client_sends_is_read_without_a_panic(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..20),
        is_text in any::<bool>(),
    ) {
        let mut reader = carrier().reader;
        let mut pcm = Vec::new();
        for bytes in &messages {
            let before = pcm.len();
            match reader.read(Message { bytes, is_text }, &mut pcm) {
                None => prop_assert_eq!(pcm.len(), before),
                Some(frame) => prop_assert_eq!(pcm.len(), before + frame.samples),
            }
        }
    }
}
