//! G.711: one byte a sample, a sign, three bits of exponent and four of mantissa. North America and Japan speak µ-law
//! (ITU-T G.711 §3.2), the rest of the world A-law (§3.1).

/// What the coder of µ-law adds before it takes the logarithm: 33 in 14 bits.
const BIAS: i32 = 33 << 2;

/// The loudest sample that µ-law holds.
const LOUDEST: i32 = 32_635;

/// A-law inverts every other bit, so that silence is not a row of equal bits.
const EVEN_BITS: u8 = 0x55;

/// Every byte of µ-law, decoded.
static MU_LAW: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = decode_mu_law(byte as u8);
        byte += 1;
    }
    table
};

/// Every byte of A-law, decoded.
static A_LAW: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = decode_a_law(byte as u8);
        byte += 1;
    }
    table
};

/// A 16-bit sample as one byte of µ-law.
#[must_use]
pub fn to_mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(LOUDEST) + BIAS;
    // The bias makes the highest bit one of 7 to 14.
    let exponent = 24 - magnitude.leading_zeros();
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

/// One byte of µ-law as a sample with full scale at ±1.0; the loudest is 32124 in 16 bits.
#[must_use]
pub fn from_mu_law(byte: u8) -> f32 {
    MU_LAW[usize::from(byte)]
}

/// A 16-bit sample as one byte of A-law.
#[must_use]
pub fn to_a_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    // 12 bits of magnitude; -1 is as far from the border between the signs as 0.
    let magnitude = u32::from((if sample < 0 { !sample } else { sample }).cast_unsigned()) >> 4;
    // The two lowest segments have the same step.
    let exponent = (28 - magnitude.leading_zeros().min(28)).min(7);
    let mantissa = (magnitude >> exponent.saturating_sub(1)) & 0x0F;
    (sign | (exponent << 4) as u8 | mantissa as u8) ^ EVEN_BITS
}

/// One byte of A-law as a sample with full scale at ±1.0; the loudest is 32256 in 16 bits, and there is no 0.
#[must_use]
pub fn from_a_law(byte: u8) -> f32 {
    A_LAW[usize::from(byte)]
}

const fn decode_mu_law(byte: u8) -> f32 {
    let code = !byte;
    let magnitude = (((((code & 0x0F) as i32) << 3) + BIAS) << ((code >> 4) & 7)) - BIAS;
    let sample = if code & 0x80 == 0 { magnitude } else { -magnitude };
    sample as f32 / 32768.0
}

const fn decode_a_law(byte: u8) -> f32 {
    let code = byte ^ EVEN_BITS;
    let mantissa = (code & 0x0F) as i32;
    // The middle of the step.
    let magnitude = match (code >> 4) & 7 {
        0 => (mantissa << 4) + 8,
        exponent => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    let sample = if code & 0x80 == 0 { -magnitude } else { magnitude };
    sample as f32 / 32768.0
}
