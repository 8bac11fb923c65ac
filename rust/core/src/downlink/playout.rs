//! The caller's delay: as small as the engine and the network allow.
//!
//! The phone's side has a playback buffer of its own, which serves as the jitter buffer (`PhonePath` estimates what
//! it holds). The engine's audio is sent as it arrives, in whole 20 ms packets. Its first audio is held back just
//! long enough that the latest of the engine's frames still arrives before the phone is drained. In steady state no
//! timer runs. Every later arrival is compared with the clock:
//! - *Slack* is how much later than needed the newest audio will be heard, given how late frames come
//!   (`RelativeDelay`) and what the path to the phone asks for. A lot of slack is removed at once (from pauses, then
//!   from speech by WSOLA, then by a cut). A little waits for a pause. If it is negative, a pause is made longer.
//! - Audio that the phone does not need yet waits here, where it can still be made shorter or be dropped.
//! - When nothing arrives and the phone is about to be drained, libopus conceals a short gap and comfort noise fills
//!   a long one.
//!
//! Edits are whole packets where possible: a remainder that waits for the next frame is delay without use.

mod config;

use crate::downlink::barge_in::BargeIn;
use crate::dsp::concealment::{Conceal, Concealment};
use crate::dsp::relative_delay::RelativeDelay;
use crate::dsp::sync_buffer::{SyncBuffer, cross_fade};
use crate::dsp::vad::Echo;
pub use crate::phone_path::Mark;
use crate::phone_path::{PhonePath, Source};
use crate::rate::{CATCH_UP_US, FRAME_US, LineRate, PACKET_MS};
pub use config::{PlayoutConfig, PlayoutProfile, PlayoutStats};

/// The minimum payload that some accounts demand, in samples of two bytes: Exotel documents 3,200 bytes.
const STRICT_SAMPLES: usize = 1600;
/// For this long after the engine's first audio, the intake's estimate of the engine's beat counts.
const EXPECTED_FOR_US: u64 = 1_000_000;
/// A larger surplus is not sent ahead, and is removed at once, from speech as well.
const SURPLUS_US: i64 = 60_000;
/// A smaller surplus must have lasted this long before a pause is made shorter...
const PAUSES_AFTER_US: u64 = 1_000_000;
/// ...and this long before speech is.
const SPEECH_AFTER_US: u64 = 3_000_000;
/// If the phone's backlog proved longer by less than this, it is reduced step by step, whatever the largest backlog.
const STALE_US: i64 = 250_000;
/// A smaller remainder is not worth a splice.
const ODD_MS: u32 = 2;
/// Audio that waits here is sent when the phone's backlog is below this.
const REFILL_US: u64 = 40_000;
/// A longer gap is not jitter. From then on noise is sent in larger portions, to save wake-ups.
const LONG_GAP_US: u64 = 500_000;
const LONG_GAP_PACKETS: usize = 3;
/// After this much noise the engine counts as gone, and its next audio is treated as its first.
const GIVE_UP_US: u64 = 30_000_000;

/// What to do with the audio that [`Playout::push`] or [`Playout::poll`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send it (it may be empty).
    Send,
    /// The caller barged in: send `clear` first, then it.
    ClearThenSend,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing to play.
    Idle,
    /// The first audio is held back until `at_us`.
    Starting {
        at_us: u64,
    },
    Playing,
    /// The engine's audio is missing: `bridged` samples of concealment and noise were sent.
    Bridging {
        since_us: u64,
        bridged: usize,
    },
}

/// Engine audio in, whole packets for the phone out; see the module.
#[derive(Debug)]
pub struct Playout {
    rate: LineRate,
    packet: usize,
    payload: usize,
    config: PlayoutConfig,
    state: State,
    queue: SyncBuffer,
    concealment: Concealment,
    scratch: Vec<f32>,
    relative_delay: RelativeDelay,
    path: PhonePath,
    /// The latest offset to expect by the intake's estimate, and until when the estimate counts.
    expected: (i64, u64),
    beat_us: i64,
    surplus_since_us: Option<u64>,
    behind_since_us: Option<u64>,
    barge_in: BargeIn,
    echo: Echo,
    /// How much of the caller's time the engine was not given. The engine says nothing for this time, so its later
    /// audio belongs to a later time than its count of samples says.
    not_given_us: i64,
    /// The phone's side holds more than is worth hearing.
    stale: bool,
    stats: PlayoutStats,
}

impl Playout {
    /// A playout that has sent nothing.
    #[must_use]
    pub fn new(rate: LineRate, config: PlayoutConfig) -> Self {
        let packet = rate.samples(PACKET_MS);
        let payload = match config.profile {
            PlayoutProfile::Strict => STRICT_SAMPLES.next_multiple_of(packet),
            PlayoutProfile::Standard | PlayoutProfile::LowDelay => packet,
        };
        Self {
            rate,
            packet,
            payload,
            state: State::Idle,
            queue: SyncBuffer::new(rate),
            concealment: Concealment::new(rate, config.seed),
            scratch: Vec::new(),
            relative_delay: RelativeDelay::new(config.profile.covers_rare_delays()),
            path: PhonePath::new(config.profile.covers_rare_delays()),
            expected: (i64::MIN, 0),
            beat_us: 0,
            surplus_since_us: None,
            behind_since_us: None,
            barge_in: BargeIn::default(),
            echo: Echo::default(),
            not_given_us: 0,
            stale: false,
            stats: PlayoutStats::default(),
            config,
        }
    }

    /// The fewest samples that a payload may have; whole packets.
    #[must_use]
    pub fn payload_samples(&self) -> usize {
        self.payload
    }

    /// How much later than its first frame the engine's frames will come: see
    /// [`crate::uplink::intake::Intake::beat_us`].
    pub fn expect_beat(&mut self, beat_us: i64) {
        self.beat_us = beat_us;
    }

    /// The bridge's own audio was sent, such as silence before the engine's first audio.
    pub fn sent_own(&mut self, samples: usize, now_us: u64) {
        self.path
            .sent(Source::Bridge, self.rate.us(samples) as u64, now_us);
    }

    /// Engine audio arrived: appends what to send now, always whole packets. `voice_level`: how loud the caller
    /// speaks, RMS, or 0 (see [`crate::uplink::intake::Intake::voice_level`]).
    pub fn push(&mut self, pcm: &[f32], now_us: u64, voice_level: f32, out: &mut Vec<f32>) -> Step {
        if pcm.is_empty() {
            return Step::Send;
        }
        let was = self.state;
        self.concealment.forget();
        if was == State::Idle {
            self.relative_delay.reset();
        }
        let position_us = self.position_us();
        // If the first frame is the latest of all, the offset that the later ones will have is learnt instead.
        let later_us = if was == State::Idle {
            self.beat_us.min(0)
        } else {
            0
        };
        self.relative_delay.observe(position_us - later_us, now_us);
        self.stats.received += pcm.len() as u64;
        self.queue.background.observe(pcm);
        if was == State::Idle {
            self.start(pcm, position_us, now_us);
        } else {
            self.queue.push(pcm);
        }
        if let State::Bridging { since_us, .. } = was {
            let gap_us = now_us.saturating_sub(since_us);
            self.stats.longest_hole_us = self.stats.longest_hole_us.max(gap_us);
            self.state = State::Playing;
        }
        let step = self.interrupt(pcm, voice_level, now_us);
        self.adjust(self.rate.us(pcm.len()), now_us);
        self.send(now_us, out);
        step
    }

    /// To be called at or after [`Playout::wake_us`]: appends audio that waited, or fills a gap. `conceal` appends a
    /// number of samples of libopus' concealment, at the line's rate.
    pub fn poll(
        &mut self,
        now_us: u64,
        conceal: &mut dyn FnMut(usize, &mut Vec<f32>),
        out: &mut Vec<f32>,
    ) -> Step {
        if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
            return Step::Send;
        }
        if matches!(self.state, State::Starting { .. }) {
            self.state = State::Playing;
        }
        if self.queue.len() >= self.payload {
            self.send(now_us, out);
        } else {
            self.bridge(now_us, conceal, out);
        }
        Step::Send
    }

    /// Whether a gap in the engine's audio is being filled.
    #[must_use]
    pub fn is_bridging(&self) -> bool {
        matches!(self.state, State::Bridging { .. })
    }

    /// Whether the engine's next audio will be treated as its first.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// When [`Playout::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        let early_us = if self.queue.len() >= self.payload {
            REFILL_US
        } else {
            self.config.profile.safety_us()
        };
        match self.state {
            State::Idle => None,
            State::Starting { at_us } => Some(at_us),
            State::Playing | State::Bridging { .. } => {
                Some(self.path.drained_at_us().saturating_sub(early_us))
            }
        }
    }

    /// Drops everything. True: the phone's side still holds audio, so a `clear` must be sent.
    pub fn flush(&mut self, now_us: u64) -> bool {
        self.stats.flushed += self.queue.len() as u64;
        self.stats.flushes += 1;
        self.queue.clear();
        let held = self.path.backlog_us(now_us) > 0;
        self.path.cleared(now_us);
        self.echo.cut(now_us);
        self.state = State::Idle;
        self.barge_in = BargeIn::default();
        held
    }

    /// The engine will send no more: appends what waits here, at most what may be sent ahead, in whole packets. It
    /// may have broken off in mid-word, so its last sound is continued for a moment, fading. `conceal` as for
    /// [`Playout::poll`]. The next audio is treated as an engine's first.
    pub fn stop(&mut self, now_us: u64, conceal: &mut dyn FnMut(usize, &mut Vec<f32>), out: &mut Vec<f32>) {
        let begin = out.len();
        let ahead_us = i64::from(self.config.max_ahead_ms) * 1000 - self.path.backlog_us(now_us) as i64;
        self.queue.take(self.rate.samples_in_us(ahead_us), out);
        let fading = if self.queue.len() > 0 {
            self.concealment.fade().min(out.len() - begin)
        } else {
            self.extend_speech(conceal, out)
        };
        self.stats.cut += self.queue.len() as u64;
        self.queue.clear();
        self.concealment.forget();
        let end = out.len();
        for (i, sample) in out[end - fading..].iter_mut().rev().enumerate() {
            *sample *= i as f32 / fading as f32;
        }
        let mut samples = (end - begin).next_multiple_of(self.packet);
        if samples > 0 {
            samples = samples.max(self.payload);
        }
        self.stats.padded += (samples - (end - begin)) as u64;
        out.resize(begin + samples, 0.0);
        self.sent(&out[begin..], now_us);
        self.state = State::Idle;
        self.barge_in = BargeIn::default();
        self.surplus_since_us = None;
        self.behind_since_us = None;
        self.stats.remote_us = self.path.backlog_us(now_us);
    }

    /// How long the model has paused since it last spoke; `None` before it spoke.
    #[must_use]
    pub fn paused_us(&self) -> Option<u64> {
        self.barge_in.paused_us()
    }

    /// The mark to send after what was just sent, if one is due.
    pub fn mark_due(&mut self, now_us: u64) -> Option<Mark> {
        self.path.mark_due(now_us)
    }

    /// The phone echoed a mark: what was sent before it has been played. `return_jitter_us`: how much the delay of the
    /// path from the phone to us varies.
    pub fn mark_echoed(&mut self, mark: Mark, return_jitter_us: u64, now_us: u64) {
        let longer_us = self.path.mark_echoed(mark, return_jitter_us, now_us);
        self.stale |= longer_us > STALE_US.max(i64::from(self.config.max_backlog_ms) * 1000);
    }

    /// When the phone's side has played all that was sent.
    #[must_use]
    pub fn drained_at_us(&self) -> u64 {
        self.path.drained_at_us()
    }

    /// How much of the caller's time the engine was not given in all: see
    /// [`crate::uplink::intake::Intake::not_given_us`].
    pub fn set_not_given_us(&mut self, not_given_us: i64) {
        self.not_given_us = not_given_us;
    }

    /// Whether to ping the phone's side now, to learn how the path to it jitters.
    pub fn ping_due(&mut self, now_us: u64) -> bool {
        self.path.ping_due(now_us)
    }

    /// When to ask [`Playout::ping_due`] though nothing else happens, while there is something to learn.
    #[must_use]
    pub fn ping_wake_us(&self) -> Option<u64> {
        self.path.ping_wake_us()
    }

    /// A ping came back from the phone's side after `rtt_us`. `return_jitter_us` as for [`Playout::mark_echoed`].
    pub fn pong(&mut self, rtt_us: u64, return_jitter_us: u64, now_us: u64) {
        self.path.pong(rtt_us, return_jitter_us, now_us);
    }

    /// Samples that engines sent.
    #[must_use]
    pub fn received_samples(&self) -> u64 {
        self.stats.received
    }

    /// Samples that wait here.
    #[must_use]
    pub fn buffered_samples(&self) -> usize {
        self.queue.len()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> PlayoutStats {
        PlayoutStats {
            buffered: self.queue.len() as u64,
            queued_us: self.rate.us(self.queue.len()) as u64,
            relative_delay_us: self.relative_delay.spread_us().max(0) as u64,
            ..self.stats
        }
    }

    /// Holds the first audio back until the latest frame of the beat will be in time. If the first is itself too
    /// late, packets of it are left out instead.
    fn start(&mut self, pcm: &[f32], position_us: i64, now_us: u64) {
        let offset_us = now_us as i64 - position_us;
        self.expected = (offset_us + self.beat_us, now_us + EXPECTED_FOR_US);
        // A decoder's first block is short. Without padding each later frame would leave a remainder.
        let pad = (self.packet - pcm.len() % self.packet) % self.packet;
        self.scratch.clear();
        self.scratch.resize(pad, 0.0);
        self.queue.fade_in_from_silence();
        self.queue.push(&self.scratch);
        self.stats.padded += pad as u64;
        self.queue.push(pcm);
        if pad > 0 {
            self.scratch.clear();
            self.scratch.resize(self.concealment.fade(), 0.0);
            cross_fade(self.queue.newest(pcm.len()), &self.scratch);
        }
        self.path.speech_begins(now_us);
        let mut wait_us =
            self.expected.0 + self.config.profile.margin_us() + self.path.margin_us(now_us) - offset_us;
        let packet_us = self.rate.us(self.packet);
        while wait_us < 0 && self.queue.len() > self.packet {
            self.stats.cut += self.queue.cut(self.packet) as u64;
            wait_us += packet_us;
        }
        self.state = State::Starting {
            at_us: now_us + wait_us.max(0) as u64,
        };
    }

    /// How much longer than one frame a payload waits here until it is full.
    fn payload_wait_us(&self) -> i64 {
        (self.rate.us(self.payload) + FRAME_US - 1) / FRAME_US * FRAME_US - FRAME_US
    }

    /// The offset from its media position at which audio should be heard.
    fn wanted_us(&self, now_us: u64) -> i64 {
        let (expected_us, until_us) = self.expected;
        let mut late_us = self.relative_delay.late_offset_us();
        if now_us < until_us {
            late_us = late_us.max(expected_us);
        }
        late_us + self.config.profile.margin_us() + self.payload_wait_us() + self.path.margin_us(now_us)
    }

    /// How much later than wanted the newest audio will be heard.
    fn slack_us(&self, now_us: u64) -> i64 {
        let heard_us = self.path.next_plays_us(now_us) as i64 + self.rate.us(self.queue.len());
        heard_us - self.position_us() - self.wanted_us(now_us)
    }

    /// Removes surplus from what just arrived, or inserts what is missing.
    fn adjust(&mut self, pushed_us: i64, now_us: u64) {
        if matches!(self.state, State::Starting { .. }) {
            return;
        }
        let slack_us = self.slack_us(now_us);
        // If a frame came too late, everything before it was played: only the frame itself is left, and it is needed.
        let ahead_us = self.path.backlog_us(now_us) as i64 + self.rate.us(self.queue.len());
        let surplus_us = slack_us.min(ahead_us - pushed_us - self.config.profile.margin_us());
        let surplus = self.rate.samples_in_us(surplus_us);
        let odd = self.queue.len() % self.packet;
        self.stats.target_us = (self.wanted_us(now_us) - self.relative_delay.least_offset_us()).max(0) as u64;
        if surplus_us < self.rate.us(self.packet) {
            self.surplus_since_us = None;
        }
        let since_us = *self.surplus_since_us.get_or_insert(now_us);
        let lasted_us = now_us - since_us;
        // Once a large surplus is being removed, all of it goes.
        let behind = self.behind_since_us.is_some() && surplus_us > self.rate.us(self.packet);
        if surplus_us > SURPLUS_US || behind {
            let change = self.queue.shorten(surplus);
            self.stats.removed_in_pauses += change.in_pauses as u64;
            self.stats.removed_in_speech += change.in_speech as u64;
            self.cut(surplus - change.total(), now_us);
            return;
        }
        self.behind_since_us = None;
        if surplus >= odd + self.packet && lasted_us >= PAUSES_AFTER_US {
            let whole = odd + (surplus - odd) / self.packet * self.packet;
            let removed = self.queue.shorten_pauses(whole);
            self.stats.removed_in_pauses += removed as u64;
            if removed == 0 && lasted_us >= SPEECH_AFTER_US {
                let change = self.queue.shorten(whole);
                self.stats.removed_in_speech += change.total() as u64;
            }
        } else if surplus >= odd && odd >= self.rate.samples_in_us(i64::from(ODD_MS) * 1000) {
            self.stats.removed_in_pauses += self.queue.shorten_pauses(odd) as u64;
        } else if slack_us - self.rate.us(odd) < -self.config.profile.reserve_us() {
            let missing = self.packet - odd;
            self.stats.stretched += if self.path.margin_us(now_us) > 0 {
                // An underrun at the phone would certainly be heard. A repeated pitch period is hardly audible.
                self.queue.lengthen(missing)
            } else {
                self.queue.lengthen_pause(missing)
            } as u64;
        }
    }

    /// Cuts surplus that is beyond the backlog still allowed after a stall.
    fn cut(&mut self, surplus: usize, now_us: u64) {
        let since_us = *self.behind_since_us.get_or_insert(now_us);
        let left_us = CATCH_UP_US.saturating_sub(now_us - since_us);
        let most_us = i64::from(self.config.max_backlog_ms) * 1000 * left_us as i64 / CATCH_UP_US as i64;
        let too_much = surplus.saturating_sub(self.rate.samples_in_us(most_us.max(SURPLUS_US)));
        let odd = self.queue.len() % self.packet;
        if too_much >= odd + self.packet {
            let whole = odd + (too_much - odd) / self.packet * self.packet;
            self.stats.cut += self.queue.cut(whole) as u64;
        }
    }

    /// Appends what the phone's side needs, as payloads.
    fn send(&mut self, now_us: u64, out: &mut Vec<f32>) {
        if matches!(self.state, State::Starting { .. } | State::Idle) {
            return;
        }
        let needed_us =
            FRAME_US + SURPLUS_US + self.wanted_us(now_us) - self.relative_delay.least_offset_us();
        let limit_us = needed_us.min(i64::from(self.config.max_ahead_ms) * 1000);
        let room = self
            .rate
            .samples_in_us(limit_us - self.path.backlog_us(now_us) as i64);
        let whole = |samples: usize| samples / self.packet * self.packet;
        let samples = whole(self.queue.len()).min(whole(room).max(self.payload));
        if samples >= self.payload && room > 0 {
            let begin = out.len();
            self.queue.take(samples, out);
            self.sent(&out[begin..], now_us);
        }
        self.stats.remote_us = self.path.backlog_us(now_us);
    }

    fn sent(&mut self, pcm: &[f32], now_us: u64) {
        self.echo
            .plays(pcm, self.path.next_plays_us(now_us), now_us, self.rate);
        self.path
            .sent(Source::Agent, self.rate.us(pcm.len()) as u64, now_us);
        self.stats.sent += pcm.len() as u64;
    }

    /// The phone is about to be drained: appends what little waits here, and fills the rest of a payload.
    fn bridge(&mut self, now_us: u64, conceal: &mut Conceal<'_>, out: &mut Vec<f32>) {
        let (since_us, bridged) = match self.state {
            State::Bridging { since_us, bridged } => (since_us, bridged),
            _ => {
                self.stats.holes += 1;
                self.concealment.begin_gap(&self.queue.background);
                (self.path.drained_at_us().max(now_us), 0)
            }
        };
        let gap_us = now_us.saturating_sub(since_us);
        self.stats.longest_hole_us = self.stats.longest_hole_us.max(gap_us);
        if gap_us > GIVE_UP_US {
            self.state = State::Idle;
            return;
        }
        let packets = if gap_us > LONG_GAP_US { LONG_GAP_PACKETS } else { 1 };
        let samples = self.payload.max(packets * self.packet);
        let begin = out.len();
        let missing = samples - self.queue.take(self.queue.len(), out);
        let filled = self
            .concealment
            .fill(missing, bridged, &mut self.queue, conceal, out);
        self.stats.concealed += filled.concealed as u64;
        self.stats.noise += filled.noise as u64;
        self.sent(&out[begin..], now_us);
        self.state = State::Bridging {
            since_us,
            bridged: bridged + missing,
        };
        self.stats.remote_us = self.path.backlog_us(now_us);
    }

    /// Appends a packet that continues the last sound. Returns its length: 0 if nothing was playing.
    fn extend_speech(&mut self, conceal: &mut Conceal<'_>, out: &mut Vec<f32>) -> usize {
        let in_gap = match self.state {
            State::Idle => return 0,
            State::Starting { .. } | State::Playing => false,
            State::Bridging { .. } => true,
        };
        self.concealment
            .extend_speech(self.packet, in_gap, &mut self.queue, conceal, out);
        self.stats.padded += self.packet as u64;
        self.packet
    }

    /// Drops the queue if it need not be heard any more: the model fell silent for the caller, or the phone's backlog
    /// is so long that all of it is stale.
    fn interrupt(&mut self, pcm: &[f32], voice_level: f32, now_us: u64) -> Step {
        let ahead_us = self.path.backlog_us(now_us) as i64 + self.rate.us(self.queue.len());
        let is_pause = self.queue.background.is_pause(pcm);
        let caller_speaking = voice_level > 0.0 && self.echo.is_exceeded_by(voice_level, now_us);
        // With larger payloads more audio always waits here.
        let bound_us = i64::from(self.config.barge_in_ms) * 1000 + self.payload_wait_us();
        self.barge_in
            .heard(is_pause, self.rate.us(pcm.len()), caller_speaking);
        let barge_in = self
            .barge_in
            .stale_speech_us(ahead_us, caller_speaking)
            .is_some_and(|speech_us| speech_us > bound_us);
        if !barge_in && !self.stale {
            return Step::Send;
        }
        // The queue starts again with the newest audio.
        let kept = pcm.len().min(self.queue.len()) / self.packet * self.packet;
        self.stats.flushed += self.queue.cut(self.queue.len() - kept) as u64;
        // The phone's side breaks off somewhere in what it held: it is not known where.
        self.queue.fade_in_from_silence();
        self.stats.flushes += 1;
        self.barge_in = BargeIn::default();
        self.stale = false;
        self.path.cleared(now_us);
        self.echo.cut(now_us);
        Step::ClearThenSend
    }

    /// The media position of the engine's audio, in the caller's time.
    fn position_us(&self) -> i64 {
        self.rate.us(self.stats.received as usize) + self.not_given_us
    }
}
