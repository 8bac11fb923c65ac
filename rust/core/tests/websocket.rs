//! Frames that are whole messages are read as they were written, and nothing else is taken for one.

use proptest::prelude::*;
use pxbridge_core::websocket::{BINARY, Key, PONG, Payload, TEXT, lone, mask, size, write};

fn written(first_byte: u8, payload: &[u8], key: Option<Key>) -> Vec<u8> {
    let mut frame = vec![0; size(payload.len(), key.is_some())];
    write(&mut frame, first_byte, payload, key);
    frame
}

fn read(frame: &[u8], masked: bool) -> Option<Vec<u8>> {
    lone(frame, masked).map(|Payload { bytes, key }| {
        let mut payload = vec![0; bytes.len()];
        match key {
            Some(key) => mask(&mut payload, bytes, key),
            None => payload.copy_from_slice(bytes),
        }
        payload
    })
}

/// Lengths on both sides of each change of the head.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..200_usize, 65_400..65_536_usize]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    length().prop_flat_map(|length| prop::collection::vec(any::<u8>(), length))
}

proptest! {
    #[test]
    fn what_is_written_is_read(payload in message(), key: Option<Key>, text: bool) {
        let first_byte = if text { TEXT } else { BINARY };
        let frame = written(first_byte, &payload, key);
        prop_assert_eq!(frame[0], first_byte);
        prop_assert_eq!(read(&frame, key.is_some()), Some(payload));
        prop_assert_eq!(read(&frame, key.is_none()), None, "a peer of the other kind");
    }

    #[test]
    fn a_frame_with_a_byte_more_or_less_is_not_alone(payload in message(), key: Option<Key>) {
        let mut frame = written(BINARY, &payload, key);
        frame.push(0);
        prop_assert_eq!(lone(&frame, key.is_some()), None);
        frame.truncate(frame.len() - 2);
        prop_assert_eq!(lone(&frame, key.is_some()), None);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..40), masked: bool) {
        if let Some(payload) = lone(&data, masked) {
            prop_assert!(payload.bytes.len() < data.len());
        }
    }
}

#[test]
fn examples_of_the_standard_are_read_and_written() {
    // RFC 6455 §5.7.
    let unmasked = b"\x81\x05Hello";
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(written(TEXT, b"Hello", None), unmasked);
    assert_eq!(written(TEXT, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])), masked);
    assert_eq!(read(unmasked, false).as_deref(), Some(&b"Hello"[..]));
    assert_eq!(read(masked, true).as_deref(), Some(&b"Hello"[..]));
    assert_eq!(read(b"\x8a\x05Hello", false).as_deref(), Some(&b"Hello"[..]));
}

#[test]
fn fragments_control_frames_and_reserved_bits_are_for_the_parser() {
    for first_byte in (0..=u8::MAX).filter(|byte| ![TEXT, BINARY, PONG].contains(byte)) {
        assert_eq!(lone(&written(first_byte, b"something", None), false), None);
    }
}

#[test]
fn a_message_of_64_kib_and_a_long_pong_are_for_the_parser() {
    assert_eq!(lone(&written(BINARY, &vec![0; 65_536], None), false), None);
    assert_eq!(lone(&written(PONG, &[0; 126], None), false), None);
}
