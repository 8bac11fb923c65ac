//! What Exotel still has to play, as far as can be known from here.
//!
//! Exotel plays what it gets at real time, so one number says it all: when its queue runs dry if nothing more is
//! sent. The model starts out pessimistic (nothing takes time on the way). The phone echoes a mark when what was
//! sent before it has been played; how much later than the model says is a constant of the line, until something
//! happened there: a stall on the way made Exotel's queue longer for good, or its clock runs at another speed.
//!
//! Where the line jitters while that constant is learnt, it is too large. By what the way back varied, echoes tell when
//! it varies no more: the earliest ones were late all the same. By what the way there varied, Exotel's queue began late
//! and is as much longer than needed: whoever knows the line's round trips tells ([`RemotePlayback::began_late`]). Should
//! that prove wrong, as Exotel itself may take its time to play, it is taken back. Where the caller had to wait, the marks
//! of the silence sent meanwhile tell as much.
//!
//! A way that becomes longer, there or back, looks like a longer queue, but is none: pings tell ([`RemotePlayback::takes`]).

use std::collections::VecDeque;

use crate::downlink::playout::Mark;

/// A mark is sent this often...
const MARK_EVERY_US: u64 = 1_000_000;
/// ...and so many at first this often, so that a stall in the first seconds is noticed too; and whenever something is
/// to be learnt of the line.
const FIRST_MARKS: u32 = 10;
const FIRST_MARK_EVERY_US: u64 = 80_000;
/// Marks on their way; a phone that echoes none costs nothing.
const MARKS_KEPT: usize = 64;
/// So many echoes tell the line's constant: the earliest of them.
const ECHOES_FOR_BASE: u32 = 5;
/// Echoes that agree within this are the truth about the queue, and not the network's jitter...
const AGREE_US: i64 = 10_000;
/// ...if they are so many...
const ECHOES_TO_AGREE: usize = 5;
/// ...or so many, for a change beyond this, which jitter does not make.
const ECHOES_FOR_LARGE: usize = 3;
const LARGE_US: i64 = 250_000;
/// A queue that was taken for longer than needed is made shorter, and a hole tells if it was not, in this time.
const DOUBTED_FOR_US: u64 = 6_000_000;
/// Exotel plays on a grid of packets, and what begins anew waits for its next point: by so much the line's constant is
/// another for each such piece.
const GRID_US: i64 = 20_000;
/// So many marks of silence are compared with those of words: networks change while somebody waits for minutes.
const WAITED_KEPT: usize = 8;
/// A stall is awaited for so long.
const OVERDUE_AT_MOST_US: i64 = 30_000_000;
/// A change of this is worth correcting: half a packet.
const WORTH_US: i64 = 8_000;
/// Of a large change a share is enough: the network that stalled still jitters.
const AGREE_SHARE: i64 = 16;
/// Echoes come as far apart as marks are played. Those in less than this share of it piled up behind a stall of the
/// way back, and tell nothing.
const PILED_UP_SHARE: i64 = 2;

#[derive(Debug, Clone, Copy)]
struct Pending {
    number: u32,
    played_us: i64,
    aside: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RemotePlayback {
    drained_at_us: u64,
    /// How much of `drained_at_us` was learnt from echoes.
    shift_us: i64,
    epoch: u32,
    next_mark: u32,
    marked_us: Option<u64>,
    /// Whether what was sent last was no engine's: silence or music while the caller waits.
    aside: bool,
    /// Offsets of that, before the first words: they tell the line's constant even if a stall spoils the words' marks.
    waited: VecDeque<i64>,
    pending: VecDeque<Pending>,
    base_us: Option<i64>,
    /// By how much the base may be too large: the way back varied by that when it was learnt.
    doubt_us: i64,
    /// A change was measured while the way back varied, on top of whatever base there was: what echoes tell later is what
    /// that measurement was off by, and nothing of the base.
    moved_in_doubt: bool,
    /// Of the base, what was taken for a late beginning, and until when that is doubted.
    late_us: i64,
    late_until_us: u64,
    /// How long messages took there and back when that was last known.
    trip_us: Option<i64>,
    /// Of the base, what the ways have become longer by since.
    longer_us: i64,
    echoes: u32,
    recent: VecDeque<i64>,
    /// The newest echo: when it came, and when its mark should have been played.
    echoed: Option<(u64, i64)>,
}

impl RemotePlayback {
    pub(crate) fn new() -> Self {
        Self {
            drained_at_us: 0,
            shift_us: 0,
            epoch: 0,
            next_mark: 0,
            marked_us: None,
            aside: false,
            waited: VecDeque::with_capacity(WAITED_KEPT),
            pending: VecDeque::with_capacity(MARKS_KEPT),
            base_us: None,
            doubt_us: 0,
            moved_in_doubt: false,
            late_us: 0,
            late_until_us: 0,
            trip_us: None,
            longer_us: 0,
            echoes: 0,
            recent: VecDeque::with_capacity(ECHOES_TO_AGREE),
            echoed: None,
        }
    }

    /// When what is sent next will be heard, at the earliest.
    pub(crate) fn next_plays_us(&self, now_us: u64) -> u64 {
        self.drained_at_us.max(now_us)
    }

    /// When it runs dry, which may be over.
    pub(crate) fn drained_at_us(&self) -> u64 {
        self.drained_at_us
    }

    pub(crate) fn depth_us(&self, now_us: u64) -> u64 {
        self.drained_at_us.saturating_sub(now_us)
    }

    pub(crate) fn sent(&mut self, duration_us: u64, now_us: u64) {
        self.drained_at_us = self.next_plays_us(now_us) + duration_us;
        self.aside = false;
    }

    /// The same for silence while the caller waits.
    pub(crate) fn sent_aside(&mut self, duration_us: u64, now_us: u64) {
        self.sent(duration_us, now_us);
        self.aside = true;
    }

    /// `clear` was sent: Exotel holds nothing, and older marks mean nothing.
    pub(crate) fn cleared(&mut self, now_us: u64) {
        self.drained_at_us = now_us;
        self.epoch += 1;
        self.pending.clear();
        self.recent.clear();
    }

    /// How much later than the quickest message its first audio came, if that is known by now.
    pub(crate) fn began_late_us(&self, least_trip_us: u64) -> Option<i64> {
        let base_us = self.base_us.filter(|_| self.echoes >= ECHOES_FOR_BASE)?;
        Some(base_us - least_trip_us as i64)
    }

    /// Whether the line's constant is known as well as it can be.
    pub(crate) fn is_settled(&self) -> bool {
        self.echoes > ECHOES_FOR_BASE && self.doubt_us == 0
    }

    /// Its first audio came so late that it holds this much more than the model says, and than is needed.
    pub(crate) fn began_late(&mut self, late_us: i64, now_us: u64) {
        let Some(base_us) = &mut self.base_us else {
            return;
        };
        *base_us -= late_us;
        self.doubt_no_longer(now_us);
        self.late_us += late_us;
        self.late_until_us = now_us + DOUBTED_FOR_US;
        self.grow(late_us);
    }

    /// Messages take so long there and back now, in µs. By what that has changed since it was known, the line's constant has
    /// too: it was taken for a queue that became longer, or for one that did not become shorter.
    pub(crate) fn takes(&mut self, trip_us: u64) {
        let trip_us = trip_us as i64;
        let Some(base_us) = self.base_us.filter(|_| self.echoes >= ECHOES_FOR_BASE) else {
            return;
        };
        let known_us = self.trip_us.get_or_insert(trip_us);
        let longer_us = trip_us - *known_us;
        if (-GRID_US..=AGREE_US).contains(&longer_us) {
            return;
        }
        *known_us = trip_us;
        // At first it may have seemed longer than it was: down it goes to what is possible for certain, or to where it was.
        let less_us = self.longer_us.max(base_us - GRID_US - trip_us);
        let longer_us = longer_us.max(-less_us);
        self.longer_us = (self.longer_us + longer_us).max(0);
        self.base_us = Some(base_us + longer_us);
        self.waited.clear();
        self.grow(-longer_us);
    }

    /// A mark to send now, if one is due: oftener while something is to be learnt.
    pub(crate) fn take_mark(&mut self, learns: bool, now_us: u64) -> Option<Mark> {
        let overdue = self.is_overdue(now_us);
        if overdue && self.pending.len() == MARKS_KEPT {
            return None; // the oldest is the one that will tell
        }
        let doubts = now_us < self.late_until_us;
        let every_us = if learns || overdue || doubts || self.next_mark < FIRST_MARKS {
            FIRST_MARK_EVERY_US
        } else {
            MARK_EVERY_US
        };
        let due = self
            .marked_us
            .is_none_or(|marked_us| now_us >= marked_us + every_us);
        if self.drained_at_us <= now_us || !due {
            return None;
        }
        self.marked_us = Some(now_us);
        let number = self.next_mark;
        self.next_mark = self.next_mark.wrapping_add(1);
        if self.pending.len() == MARKS_KEPT {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            number,
            played_us: self.drained_at_us as i64 - self.shift_us,
            aside: self.aside,
        });
        Some(Mark {
            epoch: self.epoch,
            number,
        })
    }

    /// Whether the oldest mark should have come back by now: what is sent has stalled, and when it gets there the marks
    /// among it shall soon tell how much it is. A phone that echoes no more is not asked for long.
    fn is_overdue(&self, now_us: u64) -> bool {
        let (Some(base_us), Some(oldest)) = (self.base_us, self.pending.front()) else {
            return false;
        };
        let late_us = now_us as i64 - (oldest.played_us + self.shift_us + base_us);
        (LARGE_US..OVERDUE_AT_MOST_US).contains(&late_us)
    }

    /// A mark came back; its way to us takes up to `return_jitter_us` longer at times. Returns by how much the queue proved
    /// longer than thought (negative: shorter).
    pub(crate) fn marked(&mut self, mark: Mark, return_jitter_us: u64, now_us: u64) -> i64 {
        if mark.epoch != self.epoch {
            return 0;
        }
        let Some(at) = self
            .pending
            .iter()
            .position(|pending| pending.number == mark.number)
        else {
            return 0;
        };
        let Pending { played_us, aside, .. } = self.pending[at];
        self.pending.drain(..=at);
        let before = self.echoed.replace((now_us, played_us));
        if before.is_some_and(|(echoed_us, before_us)| {
            now_us.saturating_sub(echoed_us) as i64 * PILED_UP_SHARE < played_us - before_us
        }) {
            return 0;
        }
        let offset_us = now_us as i64 - played_us;
        if aside {
            // In mid-call it comes behind words that nobody waits for any more.
            if self.echoes < ECHOES_FOR_BASE {
                if self.waited.len() == WAITED_KEPT {
                    self.waited.pop_front();
                }
                self.waited.push_back(offset_us);
            }
            return 0;
        }
        self.echoes += 1;
        if self.recent.len() == ECHOES_TO_AGREE {
            self.recent.pop_front();
        }
        self.recent.push_back(offset_us);
        let base_us = match self.base_us {
            Some(base_us) if self.echoes > ECHOES_FOR_BASE => base_us,
            Some(base_us) => base_us.min(offset_us - self.shift_us),
            None => offset_us,
        };
        let base_us = match self.about_us() {
            Some(about_us) if base_us > about_us + LARGE_US => about_us,
            _ => base_us,
        };
        self.base_us = Some(base_us);
        if self.echoes <= ECHOES_FOR_BASE {
            self.doubt_us = self.doubt_us.max(return_jitter_us as i64);
        }
        let (least_us, most_us) = self.newest(ECHOES_TO_AGREE);
        let agree = self.recent.len() == ECHOES_TO_AGREE && most_us - least_us <= AGREE_US;
        if self.echoes == ECHOES_FOR_BASE && agree {
            self.compare_with_silence(now_us);
        }
        self.judge(return_jitter_us as i64, now_us)
    }

    /// If the marks of words are later than those of the silence before by more than can be, the first words were held up on
    /// their way, and all that follows waits as long at Exotel.
    fn compare_with_silence(&mut self, now_us: u64) {
        let (Some(base_us), Some(about_us)) = (self.base_us, self.about_us()) else {
            return;
        };
        let late_us = base_us - about_us - GRID_US;
        if late_us > AGREE_US {
            self.waited.clear();
            self.began_late(late_us, now_us);
        }
    }

    /// The line's constant as what was sent while the caller waited tells it.
    fn about_us(&self) -> Option<i64> {
        self.waited.iter().min().copied()
    }

    /// The least and the most offset of so many newest echoes.
    fn newest(&self, echoes: usize) -> (i64, i64) {
        let newest = self.recent.iter().rev().take(echoes);
        newest.fold((i64::MAX, i64::MIN), |(least, most), &us| {
            (least.min(us), most.max(us))
        })
    }

    fn judge(&mut self, return_jitter_us: i64, now_us: u64) -> i64 {
        let Some(base_us) = self.base_us.filter(|_| self.recent.len() == ECHOES_TO_AGREE) else {
            return 0;
        };
        self.doubt_no_longer(now_us);
        let (least_us, most_us) = self.newest(ECHOES_FOR_LARGE);
        let large_us = least_us - base_us - self.shift_us;
        let change_us = if large_us > LARGE_US && most_us - least_us < large_us / AGREE_SHARE {
            large_us
        } else {
            let (least_us, most_us) = self.newest(ECHOES_TO_AGREE);
            let mut change_us = least_us - base_us - self.shift_us;
            if most_us - least_us > AGREE_US {
                return 0;
            }
            if return_jitter_us < WORTH_US {
                change_us -= self.settle(change_us, now_us);
            }
            // What the way back does at times could do that too.
            if change_us.abs() < WORTH_US.max(return_jitter_us) {
                return 0;
            }
            // So much of it did not begin late.
            let back_us = change_us.clamp(0, self.late_us);
            self.late_us -= back_us;
            self.base_us = self.base_us.map(|base_us| base_us + back_us);
            change_us - back_us
        };
        if change_us == 0 {
            return 0;
        }
        self.moved_in_doubt |= return_jitter_us >= WORTH_US;
        self.grow(change_us);
        self.drained_at_us = self.drained_at_us.max(now_us);
        change_us
    }

    /// The way back varies no more: corrects the base by what of a change is the base's fault, and returns that.
    fn settle(&mut self, change_us: i64, now_us: u64) -> i64 {
        // A base that stays too large is delay, one that becomes too small is a hole.
        let doubt_us = if self.moved_in_doubt { 0 } else { self.doubt_us };
        let correction_us = change_us.clamp(-doubt_us, self.late_us);
        self.doubt_us = 0;
        self.late_us -= correction_us.max(0);
        self.base_us = self.base_us.map(|base_us| base_us + correction_us);
        self.compare_with_silence(now_us);
        correction_us
    }

    /// A late beginning that nothing spoke against for so long was one.
    fn doubt_no_longer(&mut self, now_us: u64) {
        if now_us >= self.late_until_us {
            self.late_us = 0;
        }
    }

    fn grow(&mut self, by_us: i64) {
        self.shift_us += by_us;
        self.drained_at_us = self.drained_at_us.saturating_add_signed(by_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_US: u64 = 80_000;

    /// Sends a frame every 80 ms and echoes marks when `plays` says that they were played; returns the corrections.
    fn corrections(frames: u64, plays: impl Fn(u64) -> u64) -> Vec<i64> {
        corrections_of(frames, |_| 0, plays)
    }

    /// The same on a way back that varies.
    fn corrections_of(
        frames: u64,
        return_jitter_us: impl Fn(u64) -> u64,
        plays: impl Fn(u64) -> u64,
    ) -> Vec<i64> {
        let mut queue = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let mut corrections = Vec::new();
        for frame in 0..frames {
            let now_us = frame * FRAME_US;
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                let change_us = queue.marked(mark, return_jitter_us(at_us), at_us);
                if change_us != 0 {
                    corrections.push(change_us);
                }
            }
            queue.sent(FRAME_US, now_us);
            if let Some(mark) = queue.take_mark(false, now_us) {
                echoes.push_back((plays(now_us + FRAME_US), mark));
            }
        }
        corrections
    }

    #[test]
    fn a_steady_line_is_never_corrected_however_far_away() {
        assert!(corrections(1000, |ideal_us| ideal_us + 230_000).is_empty());
    }

    #[test]
    fn a_stall_on_the_way_is_found_once_and_in_full() {
        let stalled = |ideal_us| ideal_us + if ideal_us > 30_000_000 { 1_530_000 } else { 30_000 };
        assert_eq!(corrections(1000, stalled), [1_500_000]);
    }

    #[test]
    fn what_the_way_back_varied_while_the_queue_grew_is_not_the_lines_fault() {
        let jitters = |ideal_us| ideal_us < 30_000_000;
        let return_jitter_us = |now_us| if jitters(now_us) { 70_000 } else { 0 };
        let late_us = |ideal_us| {
            let grown_us = if ideal_us > 10_000_000 { 600_000 } else { 0 };
            // The quickest echoes came in no time before it grew, and not while that was measured.
            let varied_us = match ideal_us / FRAME_US % 3 {
                _ if !jitters(ideal_us) => 0,
                sometimes if grown_us == 0 => 15_000 * sometimes,
                sometimes => 40_000 + 10_000 * sometimes,
            };
            ideal_us + 100_000 + grown_us + varied_us
        };
        let corrections = corrections_of(1000, return_jitter_us, late_us);
        assert!(corrections[0] > 630_000, "{corrections:?}");
        let total_us: i64 = corrections.iter().sum();
        assert_eq!(total_us, 600_000, "{corrections:?}");
    }

    #[test]
    fn a_slow_player_is_followed() {
        let slow = |ideal_us: u64| ideal_us + ideal_us / 10_000 + 30_000;
        let total: i64 = corrections(12_500, slow).iter().sum();
        assert!((85_000..=100_000).contains(&total), "{total} µs of 100 ms");
    }

    #[test]
    fn silence_in_mid_call_tells_nothing_new_of_a_line_whose_player_is_fast() {
        const TRIP_US: u64 = 50_000;
        let mut queue = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let mut player_drained_at_us = 0;
        let mut corrections = Vec::new();
        // An hour of words, a few seconds without anything, silence while the caller waits, and words again.
        for now_us in (0..3_700_000_000_u64).step_by(20_000) {
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                corrections.push((now_us, queue.marked(mark, 0, at_us)));
            }
            let second = now_us / 1_000_000;
            if (3600..3605).contains(&second) || queue.depth_us(now_us) > 160_000 {
                continue;
            }
            if (3605..3610).contains(&second) {
                queue.sent_aside(FRAME_US, now_us);
            } else {
                queue.sent(FRAME_US, now_us);
            }
            player_drained_at_us = player_drained_at_us.max(now_us + TRIP_US) + FRAME_US - FRAME_US / 10_000;
            if let Some(mark) = queue.take_mark(false, now_us) {
                echoes.push_back((player_drained_at_us + TRIP_US, mark));
            }
        }
        let total_us: i64 = corrections.iter().map(|correction| correction.1).sum();
        assert!(
            (-375_000..-345_000).contains(&total_us),
            "{total_us} µs of -360 ms"
        );
        assert!(
            corrections.iter().all(|correction| correction.1 <= 0),
            "never longer"
        );
    }

    #[test]
    fn an_engine_that_dies_in_a_stall_leaves_the_lines_constant_alone() {
        const TRIP_US: u64 = 50_000;
        let (stall, dies_us, again_us) = (20_000_000..22_000_000, 21_500_000, 29_500_000);
        let mut queue = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let (mut player_drained_at_us, mut silence_us, mut holes) = (0, 0, 0);
        for now_us in (0..60_000_000_u64).step_by(20_000) {
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                queue.marked(mark, 0, at_us);
            }
            let mut sent_us = FRAME_US;
            if (dies_us..dies_us + 400_000).contains(&now_us) {
                // The sound over a gap.
                if queue.depth_us(now_us) > 60_000 {
                    continue;
                }
                queue.sent_aside(sent_us, now_us);
                silence_us = now_us + 1_000_000;
            } else if (dies_us..again_us).contains(&now_us) {
                if now_us < silence_us {
                    continue;
                }
                silence_us += 1_000_000;
                sent_us = 20_000;
                queue.sent_aside(sent_us, now_us);
            } else {
                if queue.depth_us(now_us) > 100_000 {
                    continue;
                }
                queue.sent(sent_us, now_us);
            }
            let mut arrives_us = now_us + TRIP_US;
            if stall.contains(&arrives_us) {
                arrives_us = stall.end;
            }
            holes += u64::from(now_us > again_us + 1_000_000 && player_drained_at_us < arrives_us);
            player_drained_at_us = player_drained_at_us.max(arrives_us) + sent_us;
            if let Some(mark) = queue.take_mark(false, now_us) {
                echoes.push_back((player_drained_at_us + TRIP_US, mark));
            }
        }
        assert_eq!(holes, 0);
        assert_eq!(queue.base_us, Some(100_000));
    }

    #[test]
    fn what_trips_become_longer_by_is_no_queue_however_slow_the_pongs_are() {
        for pongs_late_us in [0, 50_000] {
            let mut queue = RemotePlayback::new();
            let base_us = 110_000;
            for frame in 0..20 {
                let now_us = frame * FRAME_US;
                queue.sent(FRAME_US, now_us);
                let mark = queue
                    .take_mark(true, now_us)
                    .expect("one is due with every frame");
                queue.marked(mark, 0, now_us + FRAME_US + base_us);
            }
            let mut takes = |trip_us: u64| {
                queue.takes(trip_us + pongs_late_us);
                (queue.base_us.map(|us| us as u64), queue.shift_us)
            };
            assert_eq!(takes(100_000), (Some(base_us), 0));
            let longer = takes(400_000);
            assert!(longer.0 >= Some(400_000) && longer.1 <= -290_000, "{longer:?}");
            assert_eq!(takes(100_000), (Some(base_us), 0));
        }
    }

    #[test]
    fn marks_of_another_epoch_are_ignored() {
        let mut queue = RemotePlayback::new();
        queue.sent(FRAME_US, 0);
        let mark = queue.take_mark(false, 0).expect("the first mark is due at once");
        queue.cleared(10_000);
        for _ in 0..10 {
            assert_eq!(queue.marked(mark, 0, 5_000_000), 0);
        }
    }
}
