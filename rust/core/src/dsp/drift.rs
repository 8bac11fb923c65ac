//! How much faster another clock runs than ours, from the media that it times.
//!
//! Media can be late but never early. So the least offset in each ten seconds follows the clock, and the median slope
//! over many of them (the Theil-Sen estimator) ignores stalls and losses.

/// One point is the least offset in a block of this length.
const BLOCK_US: u64 = 10_000_000;
/// Points kept: five minutes of them.
const BLOCKS: usize = 32;
/// The fewest points for a useful slope: one minute.
const ENOUGH: usize = 6;

/// See the module.
#[derive(Debug)]
pub(crate) struct Drift {
    points: std::collections::VecDeque<(u64, i64)>,
    block: Option<(u64, i64)>,
    ppm: Option<f32>,
}

impl Drift {
    pub(crate) fn new() -> Self {
        Self {
            points: std::collections::VecDeque::with_capacity(BLOCKS),
            block: None,
            ppm: None,
        }
    }

    /// Media up to `position_us` has arrived by now.
    pub(crate) fn observe(&mut self, position_us: i64, now_us: u64) {
        let offset_us = now_us as i64 - position_us;
        let number = now_us / BLOCK_US;
        match &mut self.block {
            Some((block, best_us)) if *block == number => *best_us = offset_us.min(*best_us),
            block => {
                if let Some(point) = block.replace((number, offset_us)) {
                    if self.points.len() == BLOCKS {
                        self.points.pop_front();
                    }
                    self.points.push_back(point);
                    self.ppm = slope(&self.points);
                }
            }
        }
    }

    /// By how many parts per million the other clock is faster than ours; `None` before a minute has passed.
    pub(crate) fn ppm(&self) -> Option<f32> {
        self.ppm
    }
}

/// The median slope. Called once per block, because it sorts.
fn slope(points: &std::collections::VecDeque<(u64, i64)>) -> Option<f32> {
    if points.len() < ENOUGH {
        return None;
    }
    // Pairs are a quarter of the points apart: far enough for the slope, and few pairs span any one loss.
    let apart = (points.len() / 4).max(2);
    let pairs = points.iter().zip(points.iter().skip(apart));
    let mut slopes = [0.0; BLOCKS];
    for (slope, (a, b)) in slopes.iter_mut().zip(pairs) {
        *slope = (a.1 - b.1) as f32 * 1e6 / ((b.0 - a.0) * BLOCK_US) as f32;
    }
    let slopes = &mut slopes[..points.len() - apart];
    slopes.sort_unstable_by(f32::total_cmp);
    Some(slopes[slopes.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_fast_by_100_ppm_is_measured_through_jitter_and_a_stall() {
        let mut drift = Drift::new();
        for chunk in 1..=3000_i64 {
            let captured_us = chunk * 100_000 * 9_999 / 10_000;
            let jitter_us = chunk * 7919 % 40_000;
            let late_us = if chunk > 1500 { 300_000 } else { 0 };
            drift.observe(chunk * 100_000, (captured_us + jitter_us + late_us) as u64);
        }
        let ppm = drift.ppm().expect("five minutes are enough");
        assert!((ppm - 100.0).abs() < 10.0, "{ppm} ppm");
    }
}
