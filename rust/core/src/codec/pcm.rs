//! Samples at the edges: `i16` outside, `f32` with full scale at ±1.0 inside.

/// Full scale of 16-bit PCM.
const FULL_SCALE: f32 = 32768.0;

/// 1.5 · 2²³: `f32` values near it differ by 1.
const ROUNDER: f32 = 12_582_912.0;

/// One 16-bit sample as `f32` in [-1.0, 1.0).
#[inline]
#[must_use]
pub fn to_f32(sample: i16) -> f32 {
    f32::from(sample) / FULL_SCALE
}

/// One sample as 16 bits: rounded, saturated (never wrapped), NaN as silence.
#[inline]
#[must_use]
pub fn to_i16(sample: f32) -> i16 {
    let scaled = sample * FULL_SCALE;
    let scaled = if scaled.is_nan() { 0.0 } else { scaled };
    let saturated = scaled.clamp(f32::from(i16::MIN), f32::from(i16::MAX));
    // The sum has no bits for a fraction, so the addition rounds. `round_ties_even` would be one function call per
    // sample where the compiler may not use SSE 4.1.
    ((saturated + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32) as i16
}

/// Appends 16-bit samples as `f32`.
pub fn extend_f32(out: &mut Vec<f32>, pcm: &[i16]) {
    out.extend(pcm.iter().map(|&s| to_f32(s)));
}

/// Appends `f32` samples as 16 bits.
pub fn extend_i16(out: &mut Vec<i16>, pcm: &[f32]) {
    out.extend(pcm.iter().map(|&s| to_i16(s)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_16_bit_sample_survives_the_round_trip() {
        assert!((i16::MIN..=i16::MAX).all(|s| to_i16(to_f32(s)) == s));
    }

    proptest! {
        #[test]
        fn a_sample_is_rounded_to_the_nearest_even_where_two_are_as_near(sample: f32, half in -65536i32..65536) {
            for sample in [sample, half as f32 / 2.0 / FULL_SCALE] {
                prop_assert_eq!(to_i16(sample), (sample * FULL_SCALE).round_ties_even() as i16);
            }
        }
    }

    #[test]
    fn full_scale_saturates_and_nan_is_silence() {
        assert_eq!(to_i16(1.0), i16::MAX);
        assert_eq!(to_i16(7.0), i16::MAX);
        assert_eq!(to_i16(-7.0), i16::MIN);
        assert_eq!(to_i16(f32::INFINITY), i16::MAX);
        assert_eq!(to_i16(f32::NAN), 0);
    }
}
