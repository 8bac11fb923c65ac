//! How much the phone's side still has to play, measured by marks.
//!
//! The phone's side plays in real time. So one number is enough: when it is drained if nothing more is sent
//! (`drained_at = planned + lengthened`, see [`crate::phone_path`]). Sending moves `planned`. As soon as enough echoes
//! of marks agree, they give `lengthened = offset - baseline`. The playback lengthens by an underrun, or because the
//! player's clock runs at another speed.

use std::collections::VecDeque;

use crate::phone_path::baseline::{Baseline, Known};
use crate::phone_path::marks::{Echo, Marks};
use crate::phone_path::{GRID_US, LARGE_US, Mark, Source, keep_newest};

/// Echoes measure the length of the playback, and not the network's jitter, if they agree within this...
const AGREE_US: i64 = 10_000;
/// ...and there are this many of them...
const ECHOES_TO_AGREE: usize = 5;
/// ...or this many, for a change beyond [`LARGE_US`], which jitter does not make. For such a change it is enough that
/// they agree within one part in [`AGREE_SHARE`] of it: a network that stalled still jitters.
const ECHOES_FOR_LARGE: usize = 3;
const AGREE_SHARE: i64 = 16;
/// A change of this is worth correcting: half a packet.
const WORTH_US: i64 = 8_000;
/// Only the newest marks of silence are compared with those of speech, this many: networks change while a caller
/// waits for minutes.
const SILENCE_KEPT: usize = 8;
/// An overdue mark is waited for this long. Then the phone has stopped echoing.
const OVERDUE_AT_MOST_US: i64 = 30_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct RemotePlayback {
    drained_at_us: u64,
    lengthened_us: i64,
    last_sent: Source,
    marks: Marks,
    /// Offsets of the newest echoes since the last `clear`.
    recent: VecDeque<i64>,
    /// Offsets behind silence, before the first words: they give the baseline even if a stall holds up the first
    /// words.
    silence: VecDeque<i64>,
    baseline: Baseline,
}

impl RemotePlayback {
    pub(super) fn new() -> Self {
        Self {
            drained_at_us: 0,
            lengthened_us: 0,
            last_sent: Source::Bridge,
            marks: Marks::new(),
            recent: VecDeque::with_capacity(ECHOES_TO_AGREE),
            silence: VecDeque::with_capacity(SILENCE_KEPT),
            baseline: Baseline::Unknown,
        }
    }

    /// When it is drained, which may be past.
    pub(super) fn drained_at_us(&self) -> u64 {
        self.drained_at_us
    }

    pub(super) fn sent(&mut self, source: Source, duration_us: u64, now_us: u64) {
        self.drained_at_us = self.drained_at_us.max(now_us) + duration_us;
        self.last_sent = source;
    }

    /// `clear` was sent: the phone's side holds nothing.
    pub(super) fn cleared(&mut self, now_us: u64) {
        self.drained_at_us = now_us;
        self.marks.cleared();
        self.recent.clear();
    }

    /// The calibrated baseline, if there is one.
    pub(super) fn baseline(&mut self) -> Option<&mut Known> {
        self.baseline.known()
    }

    /// The first audio was later than was known, by `late_us`: the phone holds that much more than the model says.
    pub(super) fn started_late(&mut self, late_us: i64, now_us: u64) {
        if let Some(known) = self.baseline.known() {
            known.started_late(late_us, now_us);
            self.lengthen(late_us);
        }
    }

    /// Round trips are steady at `rtt_us`. A path that has changed changes the baseline, not the playback.
    pub(super) fn observe_steady_rtt(&mut self, rtt_us: u64) {
        let changed_us = self
            .baseline
            .known()
            .and_then(|known| known.observe_steady_rtt(rtt_us as i64));
        if let Some(changed_us) = changed_us {
            self.silence.clear();
            self.lengthen(-changed_us);
        }
    }

    /// A mark to send now, if one is due: more often while something is to be learnt.
    pub(super) fn mark_due(&mut self, learning: bool, now_us: u64) -> Option<Mark> {
        let overdue = self.is_overdue(now_us);
        let on_trial = self
            .baseline
            .known()
            .is_some_and(|known| known.is_on_trial(now_us));
        let fast = learning || overdue || on_trial;
        // The oldest mark shows when a stall is over, so it must not be pushed out.
        let must_wait = overdue && self.marks.is_full();
        if self.drained_at_us <= now_us || must_wait || !self.marks.is_due(fast, now_us) {
            return None;
        }
        let planned_us = self.drained_at_us as i64 - self.lengthened_us;
        Some(self.marks.send(planned_us, self.last_sent, now_us))
    }

    /// Whether the oldest mark should have come back by now. Then the audio is stalled. With more marks in it, its
    /// delay is known sooner when it arrives.
    fn is_overdue(&self, now_us: u64) -> bool {
        let (Some(baseline_us), Some(planned_us)) = (self.baseline.us(), self.marks.oldest_planned_us())
        else {
            return false;
        };
        let late_us = now_us as i64 - (planned_us + self.lengthened_us + baseline_us);
        (LARGE_US..OVERDUE_AT_MOST_US).contains(&late_us)
    }

    /// A mark came back, over a path that takes up to `return_jitter_us` longer at times. Returns how much longer the
    /// playback is than was thought (negative: shorter).
    pub(super) fn mark_echoed(&mut self, mark: Mark, return_jitter_us: u64, now_us: u64) -> i64 {
        let return_jitter_us = return_jitter_us as i64;
        match self.marks.echoed(mark, now_us) {
            Some(Echo {
                offset_us,
                source: Source::Agent,
            }) => {
                keep_newest(&mut self.recent, ECHOES_TO_AGREE, offset_us);
                let silence_us = self.silence_offset_us();
                let calibrated = self.baseline.observe(offset_us, silence_us, return_jitter_us);
                if calibrated && self.newest_agreed_us().is_some() {
                    self.compare_with_silence(now_us);
                }
                self.measure(return_jitter_us, now_us)
            }
            Some(Echo {
                offset_us,
                source: Source::Bridge,
            }) => {
                // Later in the call, silence follows speech and is as late as that.
                if self.baseline.known().is_none() {
                    keep_newest(&mut self.silence, SILENCE_KEPT, offset_us);
                }
                0
            }
            None => 0,
        }
    }

    /// How much the playback has lengthened since the last measurement, by the newest echoes.
    fn measure(&mut self, return_jitter_us: i64, now_us: u64) -> i64 {
        let change_us = self
            .large_change_us()
            .or_else(|| self.small_change_us(return_jitter_us, now_us))
            .unwrap_or(0);
        if change_us != 0 {
            if return_jitter_us >= WORTH_US
                && let Some(known) = self.baseline.known()
            {
                known.measured_in_jitter();
            }
            self.lengthen(change_us);
            self.drained_at_us = self.drained_at_us.max(now_us);
        }
        change_us
    }

    /// A change that jitter does not make, from a few echoes.
    fn large_change_us(&mut self) -> Option<i64> {
        self.newest(ECHOES_TO_AGREE)?;
        let (least_us, most_us) = self.newest(ECHOES_FOR_LARGE)?;
        let change_us = least_us - self.baseline.known()?.us() - self.lengthened_us;
        (change_us > LARGE_US && most_us - least_us < change_us / AGREE_SHARE).then_some(change_us)
    }

    /// A change from echoes that agree, without the part that is the baseline's error.
    fn small_change_us(&mut self, return_jitter_us: i64, now_us: u64) -> Option<i64> {
        let least_us = self.newest_agreed_us()?;
        let known = self.baseline.known()?;
        let mut change_us = least_us - known.us() - self.lengthened_us;
        if return_jitter_us < WORTH_US {
            change_us -= known.correct(change_us, now_us);
            self.compare_with_silence(now_us);
        }
        // The return path's jitter could make that, too.
        if change_us.abs() < WORTH_US.max(return_jitter_us) {
            return None;
        }
        let back_us = self.baseline.known()?.take_back(change_us, now_us);
        Some(change_us - back_us)
    }

    /// Compares the baseline with the marks of the silence before the first words. If it is higher by more than the
    /// player's grid explains, the first words were held up, and all that follows waits as long at the phone.
    fn compare_with_silence(&mut self, now_us: u64) {
        let (Some(baseline_us), Some(silence_us)) = (self.baseline.us(), self.silence_offset_us()) else {
            return;
        };
        let late_us = baseline_us - silence_us - GRID_US;
        if late_us > AGREE_US {
            self.silence.clear();
            self.started_late(late_us, now_us);
        }
    }

    /// The baseline as marks of silence tell it.
    fn silence_offset_us(&self) -> Option<i64> {
        self.silence.iter().min().copied()
    }

    /// The least of the newest offsets, if they agree.
    fn newest_agreed_us(&self) -> Option<i64> {
        let (least_us, most_us) = self.newest(ECHOES_TO_AGREE)?;
        (most_us - least_us <= AGREE_US).then_some(least_us)
    }

    /// The least and the most of the newest `echoes` offsets; `None` if there are fewer.
    fn newest(&self, echoes: usize) -> Option<(i64, i64)> {
        if self.recent.len() < echoes {
            return None;
        }
        let newest = self.recent.iter().rev().take(echoes);
        Some(newest.fold((i64::MAX, i64::MIN), |(least_us, most_us), &us| {
            (us.min(least_us), us.max(most_us))
        }))
    }

    fn lengthen(&mut self, by_us: i64) {
        self.lengthened_us += by_us;
        self.drained_at_us = self.drained_at_us.saturating_add_signed(by_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_US: u64 = 80_000;

    /// Sends a frame every 80 ms. `plays` maps the time at which a mark is planned to be played to the time of its
    /// echo. Returns the corrections.
    fn corrections(frames: u64, plays: impl Fn(u64) -> u64) -> Vec<i64> {
        corrections_of(frames, |_| 0, plays)
    }

    /// The same over a return path that varies.
    fn corrections_of(
        frames: u64,
        return_jitter_us: impl Fn(u64) -> u64,
        plays: impl Fn(u64) -> u64,
    ) -> Vec<i64> {
        let mut playback = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let mut corrections = Vec::new();
        for frame in 0..frames {
            let now_us = frame * FRAME_US;
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                let change_us = playback.mark_echoed(mark, return_jitter_us(at_us), at_us);
                if change_us != 0 {
                    corrections.push(change_us);
                }
            }
            playback.sent(Source::Agent, FRAME_US, now_us);
            if let Some(mark) = playback.mark_due(false, now_us) {
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
    fn return_jitter_while_the_playback_lengthens_does_not_change_the_baseline() {
        let jitters = |ideal_us| ideal_us < 30_000_000;
        let return_jitter_us = |now_us| if jitters(now_us) { 70_000 } else { 0 };
        let late_us = |ideal_us| {
            let grown_us = if ideal_us > 10_000_000 { 600_000 } else { 0 };
            // Before it grew the quickest echoes came at once; while that was measured none did.
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
    fn silence_in_mid_call_does_not_change_the_baseline_of_a_fast_player() {
        const ONE_WAY_US: u64 = 50_000;
        let mut playback = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let mut player_drained_at_us = 0;
        let mut corrections = Vec::new();
        // An hour of speech, a few seconds of nothing, silence while the caller waits, and speech again.
        for now_us in (0..3_700_000_000_u64).step_by(20_000) {
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                corrections.push((now_us, playback.mark_echoed(mark, 0, at_us)));
            }
            let second = now_us / 1_000_000;
            if (3600..3605).contains(&second) || playback.drained_at_us().saturating_sub(now_us) > 160_000 {
                continue;
            }
            if (3605..3610).contains(&second) {
                playback.sent(Source::Bridge, FRAME_US, now_us);
            } else {
                playback.sent(Source::Agent, FRAME_US, now_us);
            }
            player_drained_at_us =
                player_drained_at_us.max(now_us + ONE_WAY_US) + FRAME_US - FRAME_US / 10_000;
            if let Some(mark) = playback.mark_due(false, now_us) {
                echoes.push_back((player_drained_at_us + ONE_WAY_US, mark));
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
    fn an_engine_that_dies_in_a_stall_leaves_the_baseline_alone() {
        const ONE_WAY_US: u64 = 50_000;
        let (stall, dies_us, again_us) = (20_000_000..22_000_000, 21_500_000, 29_500_000);
        let mut playback = RemotePlayback::new();
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        let (mut player_drained_at_us, mut silence_us, mut holes) = (0, 0, 0);
        for now_us in (0..60_000_000_u64).step_by(20_000) {
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                playback.mark_echoed(mark, 0, at_us);
            }
            let mut sent_us = FRAME_US;
            if (dies_us..dies_us + 400_000).contains(&now_us) {
                // The announcement that covers the gap.
                if playback.drained_at_us().saturating_sub(now_us) > 60_000 {
                    continue;
                }
                playback.sent(Source::Bridge, sent_us, now_us);
                silence_us = now_us + 1_000_000;
            } else if (dies_us..again_us).contains(&now_us) {
                if now_us < silence_us {
                    continue;
                }
                silence_us += 1_000_000;
                sent_us = 20_000;
                playback.sent(Source::Bridge, sent_us, now_us);
            } else {
                if playback.drained_at_us().saturating_sub(now_us) > 100_000 {
                    continue;
                }
                playback.sent(Source::Agent, sent_us, now_us);
            }
            let mut arrives_us = now_us + ONE_WAY_US;
            if stall.contains(&arrives_us) {
                arrives_us = stall.end;
            }
            holes += u64::from(now_us > again_us + 1_000_000 && player_drained_at_us < arrives_us);
            player_drained_at_us = player_drained_at_us.max(arrives_us) + sent_us;
            if let Some(mark) = playback.mark_due(false, now_us) {
                echoes.push_back((player_drained_at_us + ONE_WAY_US, mark));
            }
        }
        assert_eq!(holes, 0);
        assert_eq!(playback.baseline.us(), Some(100_000));
    }

    #[test]
    fn a_longer_round_trip_is_no_longer_playback_however_slow_the_pongs_are() {
        for pongs_late_us in [0, 50_000] {
            let mut playback = RemotePlayback::new();
            let base_us = 110_000;
            for frame in 0..20 {
                let now_us = frame * FRAME_US;
                playback.sent(Source::Agent, FRAME_US, now_us);
                let mark = playback
                    .mark_due(true, now_us)
                    .expect("one is due with every frame");
                playback.mark_echoed(mark, 0, now_us + FRAME_US + base_us);
            }
            let mut takes = |rtt_us: u64| {
                playback.observe_steady_rtt(rtt_us + pongs_late_us);
                (playback.baseline.us().map(|us| us as u64), playback.lengthened_us)
            };
            assert_eq!(takes(100_000), (Some(base_us), 0));
            let longer = takes(400_000);
            assert!(longer.0 >= Some(400_000) && longer.1 <= -290_000, "{longer:?}");
            assert_eq!(takes(100_000), (Some(base_us), 0));
        }
    }

    #[test]
    fn marks_sent_before_a_clear_are_ignored() {
        let mut playback = RemotePlayback::new();
        playback.sent(Source::Agent, FRAME_US, 0);
        let mark = playback
            .mark_due(false, 0)
            .expect("the first mark is due at once");
        playback.cleared(10_000);
        for _ in 0..10 {
            assert_eq!(playback.mark_echoed(mark, 0, 5_000_000), 0);
        }
    }
}
