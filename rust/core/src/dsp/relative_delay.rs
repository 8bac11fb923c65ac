//! How late media comes: a quantile of arrival offsets over the last seconds.
//!
//! ```text
//! offset         = time of arrival - media position that arrived
//! relative delay = offset - least offset
//! ```
//! A steady source on a quiet network has a single offset. A source with a beat (100 ms chunks cut into 80 ms frames)
//! has a few. Jitter spreads them. Playing each position at a high quantile of the offsets avoids underruns: WebRTC's
//! NetEq does so with its histogram of relative delays. Here the latest offset of each slot of 100 ms is kept, so
//! that a burst counts once.

/// Length of a slot: one event of a bad network, about one arrival.
const SLOT_US: u64 = 100_000;
/// Slots in the window of 7.2 s: long enough for a hundred arrivals, short enough that jitter which is over costs no
/// delay 10 s later.
const SLOTS: usize = 72;
/// One slot in this many is left out as an accident: the quantile is the third latest of 72 (97 %), so that two
/// stalls in the window are ignored. Leaving out more would miss jitter on top of a beat, where only each fifth frame
/// is late.
const ACCIDENT: usize = 36;
/// For the smallest delay one slot in this many is left out: what is late about once a second...
const RARE: usize = 10;
/// ...if that saves more than this. To save less is not worth the gaps that are heard.
const WORTH_US: i64 = 30_000;
/// An arrival later than the quantile by this is a stall. What comes after it, faster than real time, says nothing
/// about the network and is not learnt.
const STALL_US: i64 = 60_000;
/// A relative delay larger than this should not be covered by delay: it is not learnt at all.
const BEYOND_US: i64 = 250_000;
/// An arrival earlier than the quantile by this means that a stall was learnt and is over: a network with that much
/// jitter cannot carry a conversation.
const OVER_US: i64 = 500_000;
/// An arrival within this of the quantile means that the source has caught up with its stall.
const CAUGHT_UP_US: i64 = 10_000;
/// A source whose offsets have not become smaller for this long stays late: its new offsets are right.
const CATCH_UP_US: u64 = 2_000_000;

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    latest_us: i64,
    least_us: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Steady,
    /// A stall ended, and the source sends what piled up. `least_us`: its least offset so far, at `since_us`.
    CatchingUp {
        least_us: i64,
        since_us: u64,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct RelativeDelay {
    slots: Vec<Slot>,
    next: usize,
    late_offset_us: i64,
    least_offset_us: i64,
    state: State,
    covers_rare_delays: bool,
}

impl RelativeDelay {
    /// `covers_rare_delays`: whether the quantile covers what is late about once a second. Without it the delay is
    /// smallest.
    pub(crate) fn new(covers_rare_delays: bool) -> Self {
        Self {
            covers_rare_delays,
            slots: Vec::with_capacity(SLOTS),
            next: 0,
            late_offset_us: 0,
            least_offset_us: 0,
            state: State::Steady,
        }
    }

    /// Forgets everything: media positions start anew.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.covers_rare_delays);
    }

    /// Media of `position_us` arrived.
    pub(crate) fn observe(&mut self, position_us: i64, now_us: u64) {
        let offset_us = now_us as i64 - position_us;
        let stalled = !self.slots.is_empty() && offset_us > self.late_offset_us + STALL_US;
        match self.state {
            State::Steady if stalled => {
                self.state = State::CatchingUp {
                    least_us: offset_us,
                    since_us: now_us,
                };
                if offset_us > self.least_offset_us + BEYOND_US {
                    return;
                }
            }
            State::Steady => {}
            State::CatchingUp { least_us, since_us } => {
                let caught_up = offset_us <= self.late_offset_us + CAUGHT_UP_US;
                let closer = offset_us < least_us - CAUGHT_UP_US;
                if !caught_up && closer {
                    self.state = State::CatchingUp {
                        least_us: offset_us,
                        since_us: now_us,
                    };
                    return;
                }
                if !caught_up && now_us < since_us + CATCH_UP_US {
                    return;
                }
                if !caught_up {
                    self.reset();
                }
                self.state = State::Steady;
            }
        }
        if offset_us < self.late_offset_us - OVER_US {
            self.reset();
        }
        self.learn(offset_us, now_us / SLOT_US);
    }

    fn learn(&mut self, offset_us: i64, number: u64) {
        let newest = (self.next + SLOTS - 1) % SLOTS;
        match self.slots.get_mut(newest).filter(|slot| slot.number == number) {
            Some(slot) => {
                if (slot.least_us..=slot.latest_us).contains(&offset_us) {
                    return;
                }
                slot.latest_us = slot.latest_us.max(offset_us);
                slot.least_us = slot.least_us.min(offset_us);
            }
            None => {
                let slot = Slot {
                    number,
                    latest_us: offset_us,
                    least_us: offset_us,
                };
                if self.slots.len() < SLOTS {
                    self.slots.push(slot);
                } else {
                    self.slots[self.next] = slot;
                }
                self.next = (self.next + 1) % SLOTS;
            }
        }
        self.update_quantile();
    }

    fn update_quantile(&mut self) {
        const MOST: usize = SLOTS / RARE;
        let mut worst = [i64::MIN; MOST + 1];
        let accidents = self.slots.len() / ACCIDENT;
        let skipped = if self.covers_rare_delays {
            accidents
        } else {
            self.slots.len() / RARE
        };
        self.least_offset_us = i64::MAX;
        // Slots count, not time: during a stall nothing is forgotten.
        for slot in &self.slots {
            self.least_offset_us = self.least_offset_us.min(slot.least_us);
            // The few latest, in falling order, by insertion.
            let mut carried = slot.latest_us;
            for place in &mut worst[..=skipped] {
                if carried > *place {
                    std::mem::swap(place, &mut carried);
                }
            }
        }
        self.late_offset_us = worst[accidents];
        if self.late_offset_us - worst[skipped] > WORTH_US {
            self.late_offset_us = worst[skipped];
        }
    }

    /// The quantile: an offset that all arrivals but accidents keep.
    pub(crate) fn late_offset_us(&self) -> i64 {
        self.late_offset_us
    }

    /// The offset of the earliest arrival in the window.
    pub(crate) fn least_offset_us(&self) -> i64 {
        self.least_offset_us
    }

    /// The quantile as a relative delay.
    pub(crate) fn spread_us(&self) -> i64 {
        self.late_offset_us - self.least_offset_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beat_of_100_against_80_ms_is_known_after_its_first_round() {
        let mut relative_delay = RelativeDelay::new(true);
        for (position_ms, arrival_ms) in [(0, 130), (80, 230), (160, 330), (240, 430), (320, 460)] {
            relative_delay.observe(position_ms * 1000, arrival_ms * 1000);
        }
        assert_eq!(relative_delay.late_offset_us(), 190_000);
        assert_eq!(relative_delay.spread_us(), 60_000);
    }

    #[test]
    fn a_stall_and_the_burst_after_it_are_forgotten_as_an_accident() {
        let mut relative_delay = RelativeDelay::new(true);
        let mut position_ms = 0;
        while position_ms < 10_000 {
            let on_time_ms = position_ms as u64 + 100;
            let arrival_ms = if (4000..5500).contains(&on_time_ms) {
                5500
            } else {
                on_time_ms
            };
            relative_delay.observe(position_ms * 1000, arrival_ms * 1000);
            position_ms += 80;
        }
        assert_eq!(relative_delay.late_offset_us(), 100_000);
    }

    #[test]
    fn a_source_that_stayed_late_and_catches_up_slowly_is_late_no_more() {
        let mut relative_delay = RelativeDelay::new(true);
        let mut late_us = 0;
        let mut late_offset_us = 0;
        for step in 0..500_i64 {
            late_us = match step {
                0..100 => 0,
                100..150 => 3_000_000,
                _ => (late_us - 40_000).max(0),
            };
            relative_delay.observe(step * 80_000, (step * 80_000 + late_us) as u64);
            late_offset_us = late_offset_us.max(relative_delay.late_offset_us());
            if step > 225 {
                assert!(
                    relative_delay.late_offset_us() <= 500_000,
                    "{} at {step}",
                    relative_delay.late_offset_us()
                );
            }
        }
        assert_eq!(late_offset_us, 3_000_000);
        assert_eq!(relative_delay.late_offset_us(), 0);
    }

    #[test]
    fn a_source_that_stays_late_is_believed_within_seconds() {
        let mut relative_delay = RelativeDelay::new(true);
        for step in 0..300_i64 {
            let late_ms = if step < 100 { 0 } else { 500 };
            relative_delay.observe(step * 80_000, (step * 80 + late_ms) as u64 * 1000);
        }
        assert_eq!(relative_delay.late_offset_us(), 500_000);
        assert_eq!(relative_delay.spread_us(), 0);
    }
}
