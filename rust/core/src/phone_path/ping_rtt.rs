//! Round trips of pings: how long the path to the phone's side and back is, and how much it varies.
//!
//! Marks show that something was late only after the caller had an underrun. Pings take the same path and cost
//! nothing. They are sent often while the line is not known yet: when a call begins, when an agent begins to speak,
//! and after a change. They are sent less often while a jitter margin is kept, and seldom otherwise.

use std::collections::VecDeque;

use crate::phone_path::keep_newest;

/// While learning: twenty in a second show nine tenths of what the line does.
const LEARN_EVERY_US: u64 = 50_000;
const LEARN_FOR_US: u64 = 1_000_000;
/// While a margin is kept, or may be asked for soon.
const WATCH_EVERY_US: u64 = 300_000;
/// Otherwise, to see that a line becomes bad.
const SELDOM_US: u64 = 1_000_000;
/// Round trips are compared over this long: with twelve of them, jitter of 80 ms looks steady once a day.
const WINDOW_US: u64 = 4_000_000;
const KEPT: usize = 40;
/// A round trip longer than others by this was held up by a stall, and does not count as jitter.
const STALL_US: u64 = 250_000;

/// Round trips vary if they differ by this, a packet's length: a margin for less costs more than it gains.
pub(super) const VARY_US: u64 = 20_000;
/// The fewest round trips that show that a path is steady.
pub(super) const ENOUGH: usize = 11;

/// How the newest round trips differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spread {
    /// How many they are.
    pub(super) rtts: usize,
    /// How much longer than the shortest the longest took.
    pub(super) most_us: u64,
    /// The same without the longest: what happened once may have been an accident.
    pub(super) usual_us: u64,
    /// How much longer than the shortest a quarter of them took, or more.
    pub(super) often_us: u64,
}

impl Spread {
    /// Whether there are enough round trips, and they do not vary.
    pub(super) fn is_steady(&self) -> bool {
        self.rtts >= ENOUGH && self.most_us < VARY_US
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Learning {
    /// No ping was asked for yet: the first begins it.
    NotBegun,
    Until(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stall {
    None,
    /// Pings that were held up together have come back since then. Earlier pings say nothing about jitter.
    EndedAt(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct PingRtt {
    due_us: u64,
    learning: Learning,
    /// When each of the newest pings came back, and how long it took.
    rtts: VecDeque<(u64, u64)>,
    stall: Stall,
    /// The last steady round trip; `None` after one that differs from it.
    steady_rtt_us: Option<u64>,
}

impl PingRtt {
    pub(super) fn new() -> Self {
        Self {
            due_us: 0,
            learning: Learning::NotBegun,
            rtts: VecDeque::with_capacity(KEPT),
            stall: Stall::None,
            steady_rtt_us: None,
        }
    }

    /// Something has changed: from now on pings are sent often for a while.
    pub(super) fn learn(&mut self, now_us: u64) {
        self.due_us = self.due_us.min(now_us);
        self.learning = Learning::Until(now_us + LEARN_FOR_US);
    }

    /// Whether there is something to learn.
    pub(super) fn is_learning(&self, now_us: u64) -> bool {
        match self.learning {
            Learning::NotBegun => true,
            Learning::Until(until_us) => now_us < until_us,
        }
    }

    /// Whether a ping shall be sent now.
    pub(super) fn ping_due(&mut self, watched: bool, now_us: u64) -> bool {
        if self.learning == Learning::NotBegun {
            self.learning = Learning::Until(now_us + LEARN_FOR_US);
        }
        let due = now_us >= self.due_us;
        if due {
            let every_us = match watched {
                _ if self.is_learning(now_us) => LEARN_EVERY_US,
                true => WATCH_EVERY_US,
                false => SELDOM_US,
            };
            self.due_us = now_us + every_us;
        }
        due
    }

    /// When the next ping is due while there is something to learn. Otherwise pings are sent with audio and need no
    /// timer.
    pub(super) fn wake_us(&self) -> Option<u64> {
        match self.learning {
            Learning::Until(until_us) if self.due_us >= until_us => None,
            Learning::NotBegun | Learning::Until(_) => Some(self.due_us),
        }
    }

    /// A ping came back after `rtt_us`.
    pub(super) fn observe(&mut self, rtt_us: u64, now_us: u64) {
        self.keep(rtt_us, now_us);
        match self.steady_us(now_us) {
            Some(steady_us) => self.steady_rtt_us = Some(steady_us),
            // Perhaps another path: a second of pings shows whether it stays.
            None if self.steady_rtt_us.is_some_and(|us| us.abs_diff(rtt_us) > VARY_US) => {
                self.steady_rtt_us = None;
                if !self.is_learning(now_us) {
                    self.learn(now_us);
                }
            }
            None => {}
        }
    }

    /// Keeps a round trip unless a stall held it up.
    fn keep(&mut self, rtt_us: u64, now_us: u64) {
        let late = self
            .least_us()
            .is_some_and(|least_us| rtt_us > least_us + STALL_US);
        let sent_us = now_us.saturating_sub(rtt_us);
        match self.stall {
            // It was sent after the stall and is as late: the path has become longer.
            Stall::EndedAt(ended_us) if late && sent_us >= ended_us => {
                self.rtts.clear();
                self.learn(now_us);
            }
            _ if late => {
                self.stall = Stall::EndedAt(now_us);
                return;
            }
            Stall::EndedAt(ended_us) if sent_us < ended_us => return,
            Stall::EndedAt(_) | Stall::None => self.stall = Stall::None,
        }
        keep_newest(&mut self.rtts, KEPT, (now_us, rtt_us));
    }

    /// The shortest of those that are kept.
    pub(super) fn least_us(&self) -> Option<u64> {
        self.rtts.iter().map(|rtt| rtt.1).min()
    }

    /// The path's round trip if it is steady: the shortest of the newest, which all came lately and do not vary.
    pub(super) fn steady_us(&self, now_us: u64) -> Option<u64> {
        let newest = self.rtts.iter().rev().take(ENOUGH);
        let newest = newest.take_while(|rtt| rtt.0 + WINDOW_US >= now_us);
        let (rtts, least_us, most_us) = newest.fold((0, u64::MAX, 0), |(rtts, least_us, most_us), rtt| {
            (rtts + 1, rtt.1.min(least_us), rtt.1.max(most_us))
        });
        (rtts == ENOUGH && most_us - least_us < VARY_US).then_some(least_us)
    }

    pub(super) fn spread(&self, now_us: u64) -> Spread {
        let mut sorted_us = [0; KEPT];
        let mut rtts = 0;
        for &(at_us, rtt_us) in &self.rtts {
            if at_us + WINDOW_US >= now_us {
                sorted_us[rtts] = rtt_us;
                rtts += 1;
            }
        }
        let sorted_us = &mut sorted_us[..rtts];
        sorted_us.sort_unstable();
        let beyond_us = |left_out: usize| match rtts.checked_sub(1 + left_out) {
            Some(at) => sorted_us[at] - sorted_us[0],
            None => 0,
        };
        Spread {
            rtts,
            most_us: beyond_us(0),
            usual_us: beyond_us(1),
            often_us: beyond_us(rtts / 4),
        }
    }
}
