//! G.711 µ-law (ITU-T G.711 §3.2): one byte a sample, a sign, three bits of exponent and four of mantissa, all
//! inverted.

/// The coder adds this before it takes the logarithm: 33 in 14 bits.
const BIAS: i32 = 33 << 2;

/// The loudest sample that µ-law holds.
const LOUDEST: i32 = 32_635;

/// Every byte, decoded.
static DECODED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = decode(byte as u8);
        byte += 1;
    }
    table
};

/// A 16-bit sample as one byte.
#[must_use]
pub fn to_mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(LOUDEST) + BIAS;
    // The bias makes the highest bit one of 7 to 14.
    let exponent = 24 - magnitude.leading_zeros();
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

/// One byte as a sample with full scale at ±1.0; the loudest is 32124 in 16 bits.
#[must_use]
pub fn from_mu_law(byte: u8) -> f32 {
    DECODED[usize::from(byte)]
}

const fn decode(byte: u8) -> f32 {
    let code = !byte;
    let magnitude = (((((code & 0x0F) as i32) << 3) + BIAS) << ((code >> 4) & 7)) - BIAS;
    let sample = if code & 0x80 == 0 { magnitude } else { -magnitude };
    sample as f32 / 32768.0
}
