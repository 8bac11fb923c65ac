//! Marks: which are under way, when the next one is due, and what an echo says.
//!
//! The phone's side echoes a mark when the audio sent before it has been played.

use std::collections::VecDeque;

use crate::phone_path::{Mark, Source, keep_newest};

/// A mark is sent this often...
const MARK_EVERY_US: u64 = 1_000_000;
/// ...and this often while there is something to learn: a stall in the first seconds of a call is noticed too.
const FAST_MARK_EVERY_US: u64 = 80_000;
/// The first marks of a call are always sent at the faster pace.
const FAST_MARKS: u32 = 10;
/// At most this many marks are under way. A phone that echoes none costs no more memory.
const MARKS_KEPT: usize = 64;
/// Echoes normally come as far apart as their marks are played. Those that come in less than one part in this many of
/// that time were piled up by a stall of the return path, and say nothing about the playback.
const PILED_UP_SHARE: i64 = 2;

/// A mark under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    number: u32,
    /// When the audio before it was planned to be played: see the model in [`crate::phone_path`].
    planned_us: i64,
    source: Source,
}

/// What an echo says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Echo {
    /// How much later than planned it came.
    pub(super) offset_us: i64,
    /// Whose audio the mark followed.
    pub(super) source: Source,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Marks {
    epoch: u32,
    next_number: u32,
    sent_at_us: Option<u64>,
    pending: VecDeque<Pending>,
    /// The newest echo: when it came, and when its mark was planned to be played.
    newest: Option<(u64, i64)>,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self {
            epoch: 0,
            next_number: 0,
            sent_at_us: None,
            pending: VecDeque::with_capacity(MARKS_KEPT),
            newest: None,
        }
    }

    /// When the audio before the oldest mark under way was planned to be played.
    pub(super) fn oldest_planned_us(&self) -> Option<i64> {
        self.pending.front().map(|pending| pending.planned_us)
    }

    /// Whether another mark would push out the oldest.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() == MARKS_KEPT
    }

    /// Whether a mark should follow what is sent now; `fast`: there is something to learn.
    pub(super) fn is_due(&self, fast: bool, now_us: u64) -> bool {
        let every_us = if fast || self.next_number < FAST_MARKS {
            FAST_MARK_EVERY_US
        } else {
            MARK_EVERY_US
        };
        self.sent_at_us
            .is_none_or(|sent_at_us| now_us >= sent_at_us + every_us)
    }

    /// A mark behind audio of this source that is planned to be played by `planned_us`.
    pub(super) fn send(&mut self, planned_us: i64, source: Source, now_us: u64) -> Mark {
        self.sent_at_us = Some(now_us);
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        let pending = Pending {
            number,
            planned_us,
            source,
        };
        keep_newest(&mut self.pending, MARKS_KEPT, pending);
        Mark {
            epoch: self.epoch,
            number,
        }
    }

    /// `clear` was sent: marks sent before it no longer count.
    pub(super) fn cleared(&mut self) {
        self.epoch += 1;
        self.pending.clear();
    }

    /// A mark came back. `None`: it says nothing, as it is unknown, was sent before a `clear`, or piled up behind a
    /// stall.
    pub(super) fn echoed(&mut self, mark: Mark, now_us: u64) -> Option<Echo> {
        if mark.epoch != self.epoch {
            return None;
        }
        let at = self
            .pending
            .iter()
            .position(|pending| pending.number == mark.number)?;
        let Pending {
            planned_us, source, ..
        } = self.pending[at];
        self.pending.drain(..=at);
        let before = self.newest.replace((now_us, planned_us));
        let piled_up = before.is_some_and(|(came_us, before_us)| {
            now_us.saturating_sub(came_us) as i64 * PILED_UP_SHARE < planned_us - before_us
        });
        (!piled_up).then_some(Echo {
            offset_us: now_us as i64 - planned_us,
            source,
        })
    }
}
