//! How much audio the phone's side still has to play, and how certain that is.
//!
//! Between our socket and the caller's ear lie a network, the carrier's playback buffer and its clock. None of them
//! reports its state, so it is estimated from the messages that come back. The playout reports all that it sends and
//! receives to one object, [`PhonePath`], and asks no other.
//!
//! # Model
//! Times are on our clock. Nothing is known of the phone's clock but that it plays at about real time.
//! - *forward delay*, *return delay*: what a message takes to the phone's side and back at the quickest. More is
//!   *jitter*.
//! - *planned*: when all that was sent is played if nothing is ever late. Each send sets
//!   `planned = max(planned, now) + duration`.
//! - *lengthened*: how much longer than planned the playback has become. Audio that came too late, and all behind it,
//!   plays later by the underrun that it caused. A player whose clock is slow lengthens it, too.
//! - *start offset*: how much later than the quickest message the first audio began to be played.
//!
//! ```text
//! drained_at     = planned + lengthened
//! remote backlog = max(0, drained_at - now)
//! baseline       = start offset + forward delay + return delay
//! ```
//! The forward delay is not in `drained_at`: what is sent now arrives later by it, and so does everything before.
//!
//! # Evidence
//! ```text
//! mark echo: came at - planned = lengthened + baseline + return jitter
//! pong:      round trip        = forward delay + return delay + forward jitter + return jitter
//! arrival:   offset            = constant + return jitter
//! ```
//! - The baseline is the least offset of the first echoes. From then on echoes that agree tell `lengthened`
//!   ([`RemotePlayback`]).
//! - `start offset = baseline - least round trip` ([`StartOffset`]). The phone's side holds that much more than it
//!   needs.
//! - A steady round trip that has changed has changed the baseline, and not the playback ([`baseline`]).
//! - `forward jitter = range of round trips - return jitter`, where the range of the phone's own media tells the
//!   return jitter. Together with underruns it asks for a margin ([`JitterMargin`]):
//!   `margin = max(0, needed - start offset)`. Audio must have been sent by `drained_at - margin`.

mod baseline;
mod jitter_margin;
mod marks;
mod ping_rtt;
mod remote_playback;
mod start_offset;

use std::collections::VecDeque;

use crate::phone_path::jitter_margin::JitterMargin;
use crate::phone_path::ping_rtt::PingRtt;
use crate::phone_path::remote_playback::RemotePlayback;
use crate::phone_path::start_offset::StartOffset;
use crate::rate::PACKET_US;

/// The phone plays one packet in each 20 ms. Audio that begins after a gap waits for the next of these moments, so
/// its baseline differs by up to this.
const GRID_US: i64 = PACKET_US;
/// Only a stall makes a larger change. Jitter is smaller.
const LARGE_US: i64 = 250_000;

/// A mark to send right after the media; its name must carry both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many flushes came before it.
    pub epoch: u32,
    /// Its number within the call.
    pub number: u32,
}

/// Whose audio was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The engine's.
    Agent,
    /// The bridge's own: silence or announcements while the caller waits.
    Bridge,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PhonePath {
    playback: RemotePlayback,
    pings: PingRtt,
    start: StartOffset,
    margin: JitterMargin,
}

impl PhonePath {
    /// A path that is not known yet. `covers_rare_delays`: whether the margin covers audio that is late about once a
    /// second.
    pub(crate) fn new(covers_rare_delays: bool) -> Self {
        Self {
            playback: RemotePlayback::new(),
            pings: PingRtt::new(),
            start: StartOffset::Unknown,
            margin: JitterMargin::new(covers_rare_delays),
        }
    }

    /// When all that was sent will have been played, if nothing more is sent. It may be past.
    pub(crate) fn drained_at_us(&self) -> u64 {
        self.playback.drained_at_us()
    }

    /// When audio that is sent now begins to be played.
    pub(crate) fn next_plays_us(&self, now_us: u64) -> u64 {
        self.drained_at_us().max(now_us)
    }

    /// How much of what was sent still has to be played.
    pub(crate) fn backlog_us(&self, now_us: u64) -> u64 {
        self.drained_at_us().saturating_sub(now_us)
    }

    /// How much earlier than needed audio must be sent because the forward path jitters.
    pub(crate) fn margin_us(&self, now_us: u64) -> i64 {
        self.margin.us(self.start.slack_us(), now_us)
    }

    /// Audio was sent.
    pub(crate) fn sent(&mut self, source: Source, duration_us: u64, now_us: u64) {
        self.playback.sent(source, duration_us, now_us);
    }

    /// `clear` was sent.
    pub(crate) fn cleared(&mut self, now_us: u64) {
        self.playback.cleared(now_us);
    }

    /// An agent begins to speak: pings and marks are sent often for a while, to learn what the path does.
    pub(crate) fn speech_begins(&mut self, now_us: u64) {
        self.pings.learn(now_us);
    }

    /// The mark to send right after the audio that was just sent, if one is due.
    pub(crate) fn mark_due(&mut self, now_us: u64) -> Option<Mark> {
        let learning = self.pings.is_learning(now_us);
        self.playback.mark_due(learning, now_us)
    }

    /// The phone's side echoed a mark, over a return path that varied by `return_jitter_us` lately. Returns how much
    /// longer the backlog is than was thought (negative: shorter).
    pub(crate) fn mark_echoed(&mut self, mark: Mark, return_jitter_us: u64, now_us: u64) -> i64 {
        let lengthened_us = self.playback.mark_echoed(mark, return_jitter_us, now_us);
        if let Some(baseline) = self.playback.baseline() {
            let (baseline_us, is_exact) = (baseline.us(), baseline.is_exact());
            let spread = self.pings.spread(now_us);
            if let Some(rtt_us) = self.pings.least_us() {
                self.start
                    .observe(baseline_us - rtt_us as i64, spread.most_us as i64, now_us);
            }
            if is_exact
                && spread.is_steady()
                && self.margin.is_idle(self.start.slack_us(), now_us)
                && let Some(late_us) = self.start.take_jitter()
            {
                self.playback.started_late(late_us, now_us);
            }
        }
        self.margin
            .lengthened(lengthened_us, self.start.slack_us(), &mut self.pings, now_us);
        lengthened_us
    }

    /// Whether to ping the phone's side now.
    pub(crate) fn ping_due(&mut self, now_us: u64) -> bool {
        let watched = self.margin_us(now_us) > 0 || self.start.is_jittery();
        self.pings.ping_due(watched, now_us)
    }

    /// When to ask for a ping though nothing else happens.
    pub(crate) fn ping_wake_us(&self) -> Option<u64> {
        self.pings.wake_us()
    }

    /// A ping came back after `rtt_us`, over a return path that varied by `return_jitter_us` lately.
    pub(crate) fn pong(&mut self, rtt_us: u64, return_jitter_us: u64, now_us: u64) {
        self.pings.observe(rtt_us, now_us);
        self.margin.pong(
            rtt_us,
            return_jitter_us,
            self.start.slack_us(),
            &mut self.pings,
            now_us,
        );
        if let Some(rtt_us) = self.pings.steady_us(now_us) {
            self.playback.observe_steady_rtt(rtt_us);
        }
    }
}

/// Appends to a queue of at most `kept` items; the oldest makes room.
fn keep_newest<T>(queue: &mut VecDeque<T>, kept: usize, item: T) {
    if queue.len() == kept {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_US: u64 = 80_000;

    /// Sends a frame every 80 ms for five seconds. Pings take `rtt_us`; marks come back `echo_us` after they were
    /// planned to be played, or never. Returns by how much the backlog proved longer than thought.
    fn talk(
        path: &mut PhonePath,
        rtt_us: impl Fn(u64) -> u64,
        echo_us: impl Fn(u64) -> Option<u64>,
        return_jitter_us: u64,
    ) -> i64 {
        let mut lengthened_us = 0;
        let mut echoes: VecDeque<(u64, Mark)> = VecDeque::new();
        for frame in 0..62 {
            let now_us = frame * FRAME_US;
            while let Some(&(at_us, mark)) = echoes.front().filter(|(at_us, _)| *at_us <= now_us) {
                echoes.pop_front();
                lengthened_us += path.mark_echoed(mark, return_jitter_us, at_us);
            }
            path.sent(Source::Agent, FRAME_US, now_us);
            if let (Some(mark), Some(late_us)) = (path.mark_due(now_us), echo_us(frame)) {
                echoes.push_back((path.drained_at_us() + late_us, mark));
            }
            if path.ping_due(now_us) {
                path.pong(rtt_us(frame), return_jitter_us, now_us);
            }
        }
        lengthened_us
    }

    fn jitters(frame: u64) -> u64 {
        50_000 + frame * 7_919 % 80_000
    }

    #[test]
    fn without_marks_pings_alone_ask_for_a_margin_when_the_forward_path_jitters() {
        let mut path = PhonePath::new(true);
        talk(&mut path, jitters, |_| None, 0);
        assert!(path.margin_us(5_000_000) > 50_000);
        assert_eq!(path.backlog_us(4_900_000), 60_000);
    }

    #[test]
    fn jitter_of_the_return_path_alone_asks_for_no_margin() {
        let mut path = PhonePath::new(true);
        assert_eq!(talk(&mut path, jitters, |frame| Some(jitters(frame)), 80_000), 0);
        assert_eq!(path.margin_us(5_000_000), 0);
    }

    #[test]
    fn a_quiet_path_asks_for_no_margin_and_is_never_corrected() {
        let mut path = PhonePath::new(true);
        assert_eq!(talk(&mut path, |_| 50_000, |_| Some(60_000), 0), 0);
        assert_eq!(path.margin_us(5_000_000), 0);
    }

    #[test]
    fn a_clear_empties_the_backlog() {
        let mut path = PhonePath::new(true);
        path.sent(Source::Agent, 3 * FRAME_US, 1_000_000);
        assert_eq!(path.backlog_us(1_000_000), 3 * FRAME_US);
        path.cleared(1_050_000);
        assert_eq!(path.backlog_us(1_050_000), 0);
    }
}
