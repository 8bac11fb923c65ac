//! The audio that the caller heard of a simulated call, and when.

use pxbridge_core::downlink::playout::PlayoutStats;
use pxbridge_core::uplink::intake::IntakeStats;

use super::MS;

/// Everything that a listener noticed.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// When each packet of the agent's own sound was played, and how long ago it was spoken.
    pub delays: Vec<(u64, u64)>,
    /// When the player had nothing, after the first packet.
    pub holes: Vec<u64>,
    /// Stretches without the agent's own sound: start and length.
    pub gaps: Vec<(u64, u64)>,
    /// How many packets the player had at each of its ticks, from the first that it played on.
    pub queued: Vec<(u64, usize)>,
    pub first_us: u64,
    pub most_waiting: usize,
    pub clears: u64,
    pub wakes: u64,
    pub bad_samples: u64,
    /// Samples that the intake had taken out of the caller's pauses, and of the rest, whenever that changed.
    pub taken_out: Vec<(u64, u64, u64)>,
    pub fingerprint: u64,
    pub intake: IntakeStats,
    pub playout: PlayoutStats,
}

impl Heard {
    /// A quantile of the delay in ms over the packets played in a span.
    pub fn delay_ms(&self, quantile: f64, from_us: u64, to_us: u64) -> f64 {
        let mut delays: Vec<u64> = self
            .delays
            .iter()
            .filter(|(at, _)| (from_us..to_us).contains(at))
            .map(|d| d.1)
            .collect();
        assert!(!delays.is_empty(), "nothing was heard from {from_us} to {to_us}");
        delays.sort_unstable();
        delays[((delays.len() - 1) as f64 * quantile).round() as usize] as f64 / 1000.0
    }

    /// How much audio the player had on average in a span.
    pub fn queued_ms(&self, from_us: u64, to_us: u64) -> f64 {
        let ticks = self.queued.iter().filter(|(at, _)| (from_us..to_us).contains(at));
        let (number, packets) = ticks.fold((0, 0), |(number, sum), (_, packets)| (number + 1, sum + packets));
        packets as f64 * 20.0 / f64::from(number)
    }

    pub fn holes_in(&self, from_us: u64, to_us: u64) -> usize {
        self.holes
            .iter()
            .filter(|at| (from_us..to_us).contains(*at))
            .count()
    }

    pub fn gaps_in(&self, from_us: u64, to_us: u64) -> Vec<(u64, u64)> {
        self.gaps
            .iter()
            .filter(|gap| (from_us..to_us).contains(&gap.0))
            .copied()
            .collect()
    }

    pub fn longest_gap_ms(&self, from_us: u64, to_us: u64) -> u64 {
        self.gaps_in(from_us, to_us)
            .iter()
            .map(|gap| gap.1 / MS)
            .max()
            .unwrap_or(0)
    }

    /// How much of the caller's pauses, and of the rest, the intake took out, in ms.
    pub fn taken_out_ms(&self, from_us: u64, to_us: u64) -> (u64, u64) {
        let by = |at_us: u64| {
            let changes = self.taken_out.partition_point(|change| change.0 < at_us);
            self.taken_out[..changes]
                .last()
                .map_or((0, 0), |change| (change.1, change.2))
        };
        let (from, to) = (by(from_us), by(to_us));
        ((to.0 - from.0) / 8, (to.1 - from.1) / 8)
    }

    /// One line per call, for `cargo test -- --nocapture`.
    pub fn tell(&self, name: &str, from_us: u64, to_us: u64) {
        println!(
            "{name}: p50 {:.0} p95 {:.0} p99 {:.0} ms, {} holes, {} bridged, {} gaps, longest {} ms, {} wakes",
            self.delay_ms(0.5, from_us, to_us),
            self.delay_ms(0.95, from_us, to_us),
            self.delay_ms(0.99, from_us, to_us),
            self.holes_in(from_us, to_us),
            self.playout.holes,
            self.gaps_in(from_us, to_us).len(),
            self.longest_gap_ms(from_us, to_us),
            self.wakes,
        );
    }
}
