//! Ogg files of the test vectors, and helpers that take streams apart.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::Path;

use pxbridge_core::codec::ogg::{Event, PacketReader};
use pxbridge_core::codec::stream::{OggOpusReader, StreamStats};

pub const RATE_HZ: usize = 24_000;
/// 20 ms.
pub const FRAME: usize = RATE_HZ / 50;
/// The streams begin half a second before the sentence in `speech_24k.wav`.
pub const LEAD: usize = RATE_HZ / 2;

pub fn vector(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/vectors")
            .join(name),
    )
    .unwrap()
}

pub fn stream(name: &str) -> Vec<u8> {
    vector(&format!("streams/{name}.ogg"))
}

/// The test sentence; its WAV header is the plain one of 44 bytes, or longer, but the data comes last.
pub fn speech() -> Vec<f32> {
    let wav = vector("speech_24k.wav");
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    wav[data..]
        .chunks_exact(2)
        .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
        .collect()
}

pub fn decode_at(bytes: &[u8], rate_hz: u32, piece: usize) -> (Vec<f32>, StreamStats) {
    let mut reader = OggOpusReader::new(rate_hz).unwrap();
    let mut pcm = Vec::new();
    bytes.chunks(piece).for_each(|part| reader.read(part, &mut pcm));
    let stats = reader.stats();
    assert_eq!(stats.samples, pcm.len() as u64);
    assert!(pcm.iter().all(|s| s.abs() <= 1.0));
    (pcm, stats)
}

pub fn decode(bytes: &[u8]) -> (Vec<f32>, StreamStats) {
    decode_at(bytes, RATE_HZ as u32, bytes.len().max(1))
}

/// What a file holds without its padding.
pub fn read_file(bytes: &[u8], rate_hz: u32, piece: usize) -> Vec<f32> {
    let mut reader = OggOpusReader::new(rate_hz).unwrap().trimmed();
    let mut pcm = Vec::new();
    bytes.chunks(piece).for_each(|part| reader.read(part, &mut pcm));
    assert_eq!(reader.stats().samples, pcm.len() as u64);
    pcm
}

pub fn rms(pcm: &[f32]) -> f32 {
    (pcm.iter().map(|s| s * s).sum::<f32>() / pcm.len().max(1) as f32).sqrt()
}

pub fn peak(pcm: &[f32]) -> f32 {
    pcm.iter().fold(0.0, |peak, s| peak.max(s.abs()))
}

/// Likeness (1 is the same shape) and level (1 is the same) of `heard` against `said`.
pub fn likeness(said: &[f32], heard: &[f32]) -> (f32, f32) {
    let length = said.len().min(heard.len());
    let (said, heard) = (&said[..length], &heard[..length]);
    let product = said.iter().zip(heard).map(|(a, b)| a * b).sum::<f32>() / length as f32;
    (product / (rms(said) * rms(heard)), rms(heard) / rms(said))
}

/// Pages as byte ranges of a stream without junk.
pub fn pages(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let segments = usize::from(rest[26]);
        let body: usize = rest[27..27 + segments].iter().map(|&l| usize::from(l)).sum();
        let (page, after) = rest.split_at(27 + segments + body);
        pages.push(page);
        rest = after;
    }
    pages
}

pub fn packets(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    PacketReader::new().read(bytes, |event| {
        if let Event::Packet(packet) = event {
            packets.push(packet.data.to_vec());
        }
    });
    packets
}

pub fn granule(page: &[u8]) -> u64 {
    u64::from_le_bytes(page[6..14].try_into().unwrap())
}
