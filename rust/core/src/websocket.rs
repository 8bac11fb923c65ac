//! WebSocket frames that are whole messages (RFC 6455 §5), read and written without a state.
//!
//! Nearly every message of a call is one frame, and nearly every frame arrives alone in one read. Whoever reads the
//! others keeps a parser for them: [`lone`] says which they are.

/// The first byte of a frame that is a whole text message.
pub const TEXT: u8 = 0x81;
/// The first byte of a frame that is a whole binary message.
pub const BINARY: u8 = 0x82;
/// The first byte of a pong.
pub const PONG: u8 = 0x8a;

/// The key with which a client's payload is masked (§5.3).
pub type Key = [u8; 4];

const MASKED: u8 = 0x80;
/// The length that stands for "two bytes of length follow".
const TWO_BYTES: u8 = 126;
/// The length that stands for "eight bytes of length follow".
const EIGHT_BYTES: u8 = 127;

/// A frame's payload as it came, and the key it is masked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// The bytes on the wire.
    pub bytes: &'a [u8],
    /// From a client.
    pub key: Option<Key>,
}

/// The payload of `data` if it is exactly one frame that is a whole message below 64 KiB, or a pong.
///
/// `masked` says how the peer must send: a client masks, a server does not. A frame of the other kind is none here.
#[must_use]
pub fn lone(data: &[u8], masked: bool) -> Option<Payload<'_>> {
    let (&[first, second], rest) = data.split_first_chunk::<2>()?;
    if !matches!(first, TEXT | BINARY | PONG) || (second & MASKED != 0) != masked {
        return None;
    }
    let (length, rest) = match second & !MASKED {
        TWO_BYTES if first != PONG => {
            let (&length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(length)), rest)
        }
        short @ 0..TWO_BYTES => (usize::from(short), rest),
        _ => return None,
    };
    let (key, bytes) = if masked {
        let (&key, bytes) = rest.split_first_chunk::<4>()?;
        (Some(key), bytes)
    } else {
        (None, rest)
    };
    (bytes.len() == length).then_some(Payload { bytes, key })
}

/// The number of bytes of the frame of a message of `length` bytes.
#[must_use]
pub fn size(length: usize, masked: bool) -> usize {
    length + head_size(length) + if masked { 4 } else { 0 }
}

fn head_size(length: usize) -> usize {
    match length {
        0..126 => 2,
        126..0x1_0000 => 4,
        _ => 10,
    }
}

/// Writes the frame of a whole message. `to` must have [`size`] bytes.
///
/// # Panics
///
/// If `to` has another size.
pub fn write(to: &mut [u8], first_byte: u8, payload: &[u8], key: Option<Key>) {
    let length = payload.len();
    assert_eq!(to.len(), size(length, key.is_some()), "the size of a frame");
    let mask_bit = if key.is_some() { MASKED } else { 0 };
    let (head, rest) = to.split_at_mut(head_size(length));
    head[0] = first_byte;
    match head.len() {
        2 => head[1] = mask_bit | length as u8,
        4 => {
            head[1] = mask_bit | TWO_BYTES;
            head[2..].copy_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head[1] = mask_bit | EIGHT_BYTES;
            head[2..].copy_from_slice(&(length as u64).to_be_bytes());
        }
    }
    match key {
        None => rest.copy_from_slice(payload),
        Some(key) => {
            rest[..4].copy_from_slice(&key);
            mask(&mut rest[4..], payload, key);
        }
    }
}

/// Masks `from` into `to`, or takes the mask off: the same operation (§5.3). Both have the same length.
pub fn mask(to: &mut [u8], from: &[u8], key: Key) {
    const LANE: usize = 32; // a size that compilers make vector instructions of
    let mut lane = [0_u8; LANE];
    for four in lane.chunks_exact_mut(4) {
        four.copy_from_slice(&key);
    }
    for (to, from) in to.chunks_mut(LANE).zip(from.chunks(LANE)) {
        for ((to, from), key) in to.iter_mut().zip(from).zip(&lane) {
            *to = from ^ key;
        }
    }
}
