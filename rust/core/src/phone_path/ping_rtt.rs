//! Round trips of pings: how much the way to the phone's end varies, found out before anybody hears it.
//!
//! Marks tell that a line was late only after the caller had a hole. Pings take the same way and cost nothing, so they are
//! sent often while the line is not known yet (a call begins, an agent begins to speak, something has just changed),
//! now and then while delay is kept for the line's sake, and seldom otherwise.

use std::collections::VecDeque;

/// While something is to be learnt: twenty in a second know nine tenths of what the line does.
const LEARN_EVERY_US: u64 = 50_000;
const LEARN_FOR_US: u64 = 1_000_000;
/// While delay is kept, and while the caller waits for the agent.
const WATCH_EVERY_US: u64 = 300_000;
/// Else, to see that a line becomes bad.
const SELDOM_US: u64 = 1_000_000;
/// Round trips are compared over this long: with twelve of them in it, jitter of 80 ms looks steady once in a day.
const WINDOW_US: u64 = 4_000_000;
const KEPT: usize = 40;
/// A trip that took longer than others by this was held up by a stall, which is no jitter.
const STALL_US: u64 = 250_000;

/// What the newest round trips say together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// How many they are.
    pub(crate) trips: usize,
    /// How much longer than the shortest the longest took.
    pub(crate) most_us: u64,
    /// The same without the longest: what happened once may have been an accident.
    pub(crate) usual_us: u64,
    /// What a quarter of them took longer than.
    pub(crate) often_us: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PingRtt {
    due_us: u64,
    learns_until_us: Option<u64>,
    /// When each newest ping came back, and how long it took.
    trips: VecDeque<(u64, u64)>,
    /// When the last stall ended, or a little later; 0 when messages are in time again.
    stalled_us: u64,
}

impl PingRtt {
    pub(crate) fn new() -> Self {
        Self {
            due_us: 0,
            learns_until_us: None,
            trips: VecDeque::with_capacity(KEPT),
            stalled_us: 0,
        }
    }

    /// Something has changed: from now on pings are sent often for a while.
    pub(crate) fn learn(&mut self, now_us: u64) {
        self.due_us = self.due_us.min(now_us);
        self.learns_until_us = Some(now_us + LEARN_FOR_US);
    }

    /// Whether a ping shall be sent now. The first time begins the learning.
    pub(crate) fn take(&mut self, watched: bool, now_us: u64) -> bool {
        let learns_until_us = *self.learns_until_us.get_or_insert(now_us + LEARN_FOR_US);
        let due = now_us >= self.due_us;
        if due {
            self.due_us = now_us
                + match watched {
                    _ if now_us < learns_until_us => LEARN_EVERY_US,
                    true => WATCH_EVERY_US,
                    false => SELDOM_US,
                };
        }
        due
    }

    /// When the next ping is due while there is something to learn; later ones go with what is sent anyway.
    pub(crate) fn wake_us(&self) -> Option<u64> {
        let learns = self.learns_until_us.is_none_or(|until_us| self.due_us < until_us);
        learns.then_some(self.due_us)
    }

    /// A ping has come back after so long.
    pub(crate) fn observe(&mut self, trip_us: u64, now_us: u64) {
        let least_us = self.trips.iter().map(|trip| trip.1).min();
        let late = least_us.is_some_and(|least_us| trip_us > least_us + STALL_US);
        let sent_us = now_us.saturating_sub(trip_us);
        if late && sent_us >= self.stalled_us && self.stalled_us > 0 {
            // It was sent after what held up others, and is as late: the way has become longer for good.
            self.trips.clear();
            self.learn(now_us);
        } else if late {
            self.stalled_us = now_us;
            return;
        } else if sent_us < self.stalled_us {
            return; // held up by the same
        } else {
            self.stalled_us = 0;
        }
        if self.trips.len() == KEPT {
            self.trips.pop_front();
        }
        self.trips.push_back((now_us, trip_us));
    }

    /// Whether there is something to learn.
    pub(crate) fn learns(&self, now_us: u64) -> bool {
        self.learns_until_us.is_none_or(|until_us| now_us < until_us)
    }

    /// The shortest of those that are kept.
    pub(crate) fn least_us(&self) -> Option<u64> {
        self.trips.iter().map(|trip| trip.1).min()
    }

    /// The shortest of so many newest ones, if they came of late and differ by less than `vary_us`.
    pub(crate) fn steady_us(&self, trips: usize, vary_us: u64, now_us: u64) -> Option<u64> {
        let newest = self.trips.iter().rev().take(trips);
        let newest = newest.take_while(|trip| trip.0 + WINDOW_US >= now_us);
        let (number, least_us, most_us) = newest
            .fold((0, u64::MAX, 0), |(number, least_us, most_us), trip| {
                (number + 1, trip.1.min(least_us), trip.1.max(most_us))
            });
        (number == trips && most_us - least_us < vary_us).then_some(least_us)
    }

    pub(crate) fn spread(&self, now_us: u64) -> Spread {
        let mut sorted_us = [0; KEPT];
        let mut trips = 0;
        for &(at_us, trip_us) in &self.trips {
            if at_us + WINDOW_US >= now_us {
                sorted_us[trips] = trip_us;
                trips += 1;
            }
        }
        let sorted_us = &mut sorted_us[..trips];
        sorted_us.sort_unstable();
        let beyond_us = |left_out: usize| match trips.checked_sub(1 + left_out) {
            Some(at) => sorted_us[at] - sorted_us[0],
            None => 0,
        };
        Spread {
            trips,
            most_us: beyond_us(0),
            usual_us: beyond_us(1),
            often_us: beyond_us(trips / 4),
        }
    }
}
