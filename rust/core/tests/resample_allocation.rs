//! The resampler's promise to the real-time path. A file of its own, as it counts every allocation of its process.
#![allow(clippy::unwrap_used)]

use pxbridge_core::resample::Resampler;

#[test]
fn a_warm_resampler_allocates_nothing() {
    for from_hz in [8000, 16000, 24000] {
        for to_hz in [8000, 16000, 24000] {
            let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
            let input = vec![0.1; from_hz as usize / 10];
            let mut out = Vec::with_capacity(to_hz as usize / 10 + 3);
            let counted = allocation_counter::measure(|| {
                for block in [input.len(), 160, 161, 1, 480, 481] {
                    out.clear();
                    resampler.process(&input[..block.min(input.len())], &mut out);
                }
            });
            assert_eq!(counted.count_total, 0, "{from_hz} to {to_hz}: {counted:?}");
        }
    }
}
