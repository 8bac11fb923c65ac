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
//!
//! # After a gap
//! Missing media is late or lost, and only later arrivals show which. Late media comes faster than real time, so it
//! lowers the offset. Lost media never comes, so the offset stays. The missing media is therefore measured by the
//! least offset since the gap. The offsets before the gap are a range, so the result is a range too:
//! ```text
//! at most  = least offset since the gap - least offset before
//! at least = least offset since the gap - quantile before
//! ```
//! Media that is missing for [`GIVE_UP_US`] is given up as lost. The exact time does not matter.

/// Length of a slot: one event of a bad network, about one arrival.
const SLOT_US: u64 = 100_000;
/// Slots in the window of 7.2 s: long enough for a hundred arrivals, short enough that jitter which is over costs no
/// delay 10 s later.
const SLOTS: usize = 72;
/// One slot in this many is left out as an accident: the quantile is the third latest of 72 (97 %), so that two
/// stalls in the window are ignored. Leaving out more would miss jitter on top of a beat, where only each fifth frame
/// is late.
const ACCIDENT: usize = 36;
/// For the smallest delay one slot in this many is left out: audio that is late about once a second...
const RARE: usize = 10;
/// ...if that saves more than this. To save less is not worth the gaps that are heard.
const WORTH_US: i64 = 30_000;
/// An arrival later than the quantile by this comes after a gap.
const GAP_US: i64 = 60_000;
/// A longer gap should not be covered by delay: it is not learnt at all.
const BEYOND_US: i64 = 250_000;
/// An arrival earlier than the quantile by this means that media which was given up as lost has come after all.
const OVER_US: i64 = 500_000;
/// If no more than this is missing, all of it has come.
const CAUGHT_UP_US: i64 = 10_000;
/// A smaller fall of the missing media may be jitter.
const FALL_US: i64 = 10_000;
/// A burst after a gap is over when the missing media has not fallen for this long.
const BURST_US: u64 = 100_000;
/// Missing media is given up as lost when none of it has come for this long.
const GIVE_UP_US: u64 = 10_000_000;

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    latest_us: i64,
    least_us: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Steady,
    AfterGap(Gap),
}

/// A gap, and what came after it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gap {
    /// The least offset and the quantile before it.
    before_us: (i64, i64),
    length_us: i64,
    /// The offset of the first arrival after it, and the slot of that.
    first_us: i64,
    first_slot: u64,
    /// The least offset since, and when it last fell.
    least_us: i64,
    fell_us: u64,
    is_burst_over: bool,
}

impl Gap {
    /// Missing media, at most.
    fn at_most_us(&self) -> i64 {
        (self.least_us - self.before_us.0).max(0)
    }

    /// Missing media, at least.
    fn at_least_us(&self) -> i64 {
        (self.least_us - self.before_us.1).max(0)
    }

    /// How late media proved to be; 0 if the gap was so long that its lateness is not learnt.
    fn was_late_us(&self) -> i64 {
        if self.length_us > BEYOND_US {
            return 0;
        }
        (self.first_us - self.least_us).min(self.length_us)
    }
}

/// The findings of one arrival.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Arrival {
    /// How late media was, as far as it is certain that it was late and not lost.
    pub(crate) late_us: i64,
    /// The most media that is given up as lost with this arrival.
    pub(crate) lost_us: i64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct RelativeDelay {
    slots: Vec<Slot>,
    next: usize,
    late_offset_us: i64,
    least_offset_us: i64,
    state: State,
    /// The next arrival comes after a gap, however late it is.
    in_gap: bool,
    covers_rare_delays: bool,
}

impl RelativeDelay {
    /// `covers_rare_delays`: whether the quantile covers audio that is late about once a second. Without it the delay
    /// is smallest.
    pub(crate) fn new(covers_rare_delays: bool) -> Self {
        Self {
            covers_rare_delays,
            slots: Vec::with_capacity(SLOTS),
            next: 0,
            late_offset_us: 0,
            least_offset_us: 0,
            state: State::Steady,
            in_gap: false,
        }
    }

    /// Forgets everything: media positions start from zero.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.covers_rare_delays);
    }

    /// Something has taken the place of missing media: the next arrival comes after a gap.
    pub(crate) fn begin_gap(&mut self) {
        self.in_gap = true;
    }

    /// Media of `position_us` arrived.
    pub(crate) fn observe(&mut self, position_us: i64, now_us: u64) -> Arrival {
        let offset_us = now_us as i64 - position_us;
        if self.slots.is_empty() {
            self.learn(offset_us, now_us);
            return Arrival::default();
        }
        let is_late = offset_us > self.late_offset_us + self.missing_at_least_us() + GAP_US;
        if std::mem::take(&mut self.in_gap) || is_late {
            self.gap(offset_us, now_us);
            return Arrival::default();
        }
        let State::AfterGap(mut gap) = self.state else {
            let late_us = offset_us - self.least_offset_us;
            if offset_us < self.late_offset_us - OVER_US {
                self.reset();
            }
            self.learn(offset_us, now_us);
            return Arrival { late_us, lost_us: 0 };
        };
        if offset_us < gap.least_us - FALL_US {
            gap.fell_us = now_us;
        }
        if offset_us < gap.least_us {
            gap.least_us = offset_us;
            self.learn_once_more(gap.before_us.0 + gap.was_late_us(), gap.first_slot);
        }
        self.learn(offset_us - gap.at_least_us(), now_us);
        let mut lost_us = 0;
        if gap.at_most_us() <= CAUGHT_UP_US {
            self.state = State::Steady;
        } else if now_us >= gap.fell_us + GIVE_UP_US {
            lost_us = gap.at_most_us();
            self.give_up(gap);
        } else {
            gap.is_burst_over = now_us >= gap.fell_us + BURST_US;
            self.state = State::AfterGap(gap);
        }
        Arrival {
            late_us: gap.was_late_us().max(offset_us - gap.least_us),
            lost_us,
        }
    }

    /// Media arrived after a gap.
    fn gap(&mut self, offset_us: i64, now_us: u64) {
        let (before_us, usual_us) = match self.state {
            State::Steady => ((self.least_offset_us, self.late_offset_us), self.least_offset_us),
            State::AfterGap(gap) => (gap.before_us, gap.least_us),
        };
        let gap = Gap {
            before_us,
            length_us: offset_us - usual_us,
            first_us: offset_us,
            first_slot: now_us / SLOT_US,
            least_us: offset_us,
            fell_us: now_us,
            is_burst_over: false,
        };
        self.state = State::AfterGap(gap);
        self.learn(offset_us - gap.at_least_us(), now_us);
    }

    /// The missing media was lost: from now on its length is part of all offsets. It is known within a range, so the
    /// slots before the gap are moved to where they agree with those since.
    fn give_up(&mut self, gap: Gap) {
        self.state = State::Steady;
        for slot in &mut self.slots {
            let before = slot.number < gap.first_slot;
            slot.latest_us += gap.at_least_us();
            slot.least_us += if before {
                gap.at_most_us()
            } else {
                gap.at_least_us()
            };
        }
        self.update_quantile();
    }

    fn learn(&mut self, offset_us: i64, now_us: u64) {
        let number = now_us / SLOT_US;
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

    /// An arrival in that slot was as late as this.
    fn learn_once_more(&mut self, offset_us: i64, number: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            slot.latest_us = slot.latest_us.max(offset_us);
            self.update_quantile();
        }
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

    /// The media that is missing since a gap, at most.
    pub(crate) fn missing_us(&self) -> i64 {
        match self.state {
            State::Steady => 0,
            State::AfterGap(gap) => gap.at_most_us(),
        }
    }

    /// The quantile: an offset that all arrivals but accidents keep.
    pub(crate) fn late_offset_us(&self) -> i64 {
        self.late_offset_us + self.shift_us()
    }

    /// The offset of the earliest arrival in the window.
    pub(crate) fn least_offset_us(&self) -> i64 {
        self.least_offset_us + self.shift_us()
    }

    /// The offset of the earliest arrival in the window, or since a gap that is not given up.
    pub(crate) fn least_since_gap_us(&self) -> i64 {
        match self.state {
            State::Steady => self.least_offset_us,
            State::AfterGap(gap) => (self.least_offset_us + gap.at_least_us())
                .max(gap.before_us.0)
                .max(gap.least_us),
        }
    }

    /// The media that is missing since a gap, at least.
    fn missing_at_least_us(&self) -> i64 {
        match self.state {
            State::Steady => 0,
            State::AfterGap(gap) => gap.at_least_us(),
        }
    }

    /// What is added to the learnt offsets while media is missing. During a burst it is nothing.
    fn shift_us(&self) -> i64 {
        match self.state {
            State::AfterGap(gap) if gap.is_burst_over => gap.at_least_us(),
            State::Steady | State::AfterGap(_) => 0,
        }
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

    /// Feeds chunks of 100 ms, number by number, and returns what was given up as lost.
    fn lost_us(relative_delay: &mut RelativeDelay, arrivals: impl Iterator<Item = (i64, i64)>) -> i64 {
        arrivals
            .map(|(position_ms, at_ms)| {
                relative_delay
                    .observe(position_ms * 1000, at_ms as u64 * 1000)
                    .lost_us
            })
            .sum()
    }

    #[test]
    fn the_burst_after_a_stall_of_seconds_is_not_late() {
        let mut relative_delay = RelativeDelay::new(true);
        for chunk in 0..100 {
            let position_ms = chunk * 100;
            let at_ms = if (50..65).contains(&chunk) {
                6500
            } else {
                position_ms
            };
            let arrival = relative_delay.observe(position_ms * 1000, at_ms as u64 * 1000);
            assert_eq!(arrival.late_us, 0, "chunk {chunk}");
        }
    }

    #[test]
    fn lost_media_is_missing_and_is_given_up_later() {
        let mut relative_delay = RelativeDelay::new(true);
        let before = (0..50).map(|chunk| (chunk * 100, chunk * 100));
        assert_eq!(lost_us(&mut relative_delay, before), 0);
        let after = (50..100).map(|chunk| (chunk * 100, chunk * 100 + 3000));
        assert_eq!(lost_us(&mut relative_delay, after), 0);
        assert_eq!(relative_delay.missing_us(), 3_000_000);
        let later = (100..200).map(|chunk| (chunk * 100, chunk * 100 + 3000));
        assert_eq!(lost_us(&mut relative_delay, later), 3_000_000);
        assert_eq!(relative_delay.missing_us(), 0);
        assert_eq!(relative_delay.late_offset_us(), 3_000_000);
    }

    #[test]
    fn late_media_is_missing_until_it_comes() {
        let mut relative_delay = RelativeDelay::new(true);
        // From 5 to 6 s all is lost, from 6 to 7 s all is late.
        let came = (0..80).filter(|chunk| !(50..60).contains(chunk)).map(|chunk| {
            let position_ms = if chunk < 50 {
                chunk * 100
            } else {
                chunk * 100 - 1000
            };
            let is_late = (60..70).contains(&chunk);
            (position_ms, if is_late { 7000 } else { chunk * 100 })
        });
        assert_eq!(lost_us(&mut relative_delay, came), 0);
        assert_eq!(relative_delay.missing_us(), 1_000_000);
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
