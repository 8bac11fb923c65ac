//! G.711 against tables that are built here from the standard's own terms: segments, steps and decision values.

use pxbridge_core::codec::g711;

/// Tables 1a and 1b of G.711: A-law's segments above zero, as (first decision value, step), 4096 for full scale.
const A_LAW_SEGMENTS: [(i32, i32); 8] = [
    (0, 2),
    (32, 2),
    (64, 4),
    (128, 8),
    (256, 16),
    (512, 32),
    (1024, 64),
    (2048, 128),
];
/// Full scale is 4096 in the tables, and 32768 here.
const UNIT: i32 = 8;

/// For each code of A-law: the least sample of its step, the least of the next, and the value in the middle, which is
/// what is decoded.
fn a_law() -> Vec<(u8, i32, i32, i32)> {
    let mut codes = Vec::new();
    for (segment, &(first, step)) in A_LAW_SEGMENTS.iter().enumerate() {
        for interval in 0..16 {
            let code = (segment as u8) << 4 | interval as u8;
            let (low, high) = (
                (first + interval * step) * UNIT,
                (first + (interval + 1) * step) * UNIT,
            );
            let middle = i32::midpoint(low, high);
            // Note 1 of the tables: even bits are inverted. The sign bit is 1 above zero.
            codes.push(((0x80 | code) ^ 0x55, low, high, middle));
            codes.push((code ^ 0x55, -high, -low, -middle));
        }
    }
    codes
}

#[test]
fn every_sample_is_encoded_as_the_step_of_a_law_that_it_is_in() {
    let mut samples = 0;
    for (code, low, high, _) in a_law() {
        for sample in low..high {
            assert_eq!(g711::to_a_law(sample as i16), code, "{sample}");
            samples += 1;
        }
    }
    assert_eq!(samples, 65_536);
}

#[test]
fn every_code_of_a_law_is_decoded_as_the_middle_of_its_step() {
    for (code, _, _, middle) in a_law() {
        assert_eq!((g711::from_a_law(code) * 32_768.0) as i32, middle, "{code:#04x}");
    }
}

#[test]
fn every_byte_of_either_law_is_written_as_it_was_read() {
    for byte in 0..=255 {
        assert_eq!(g711::to_a_law((g711::from_a_law(byte) * 32_768.0) as i16), byte);
        let read = (g711::from_mu_law(byte) * 32_768.0) as i16;
        // µ-law has two zeros.
        let same = if byte == 0x7F { 0xFF } else { byte };
        assert_eq!(g711::to_mu_law(read), same);
    }
}
