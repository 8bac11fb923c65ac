//! The caller's delay: bounded, whatever the engine does.
//!
//! Exotel's own queue is the jitter buffer. What the engine sends goes out as it arrives, in whole 20 ms packets,
//! and its first audio is held back by just so much that the latest of the engine's frames still finds Exotel
//! playing: no timer runs in steady state. From then on every arrival is compared with the clock:
//! - *slack* is how much later the newest audio will be heard than it has to be, given how late frames come
//!   ([`RelativeDelay`]); a lot of it is taken out at once (pauses, then speech by WSOLA, then a cut), a little of it waits
//!   for a pause, less than nothing is put into one;
//! - what Exotel does not need yet waits here, where it can still be made shorter or be dropped;
//! - when nothing came and Exotel is about to run dry, libopus conceals a short hole and comfort noise a long one.
//!
//! Edits are whole packets where they can be: a remainder that waits for the next frame is delay for nothing.

use crate::downlink::barge_in::BargeIn;
use crate::dsp::concealment::{Conceal, Concealment};
use crate::dsp::relative_delay::RelativeDelay;
use crate::dsp::sync_buffer::{SyncBuffer, cross_fade};
use crate::dsp::vad::Echo;
use crate::error::{Error, Result};
pub use crate::phone_path::Mark;
use crate::phone_path::{PhonePath, Source};

/// Exotel plays packets of 20 ms; a payload that is no multiple of one costs a hole.
pub const PACKET_MS: u32 = 20;
/// One step of the model.
const FRAME_US: i64 = 80_000;
/// Exotel's documented minimum for a payload, in samples of two bytes: 3,200 bytes.
const STRICT_SAMPLES: usize = 1600;
/// For this long after its first audio the engine's beat is what the intake expects.
const GUESS_US: u64 = 1_000_000;
/// More surplus than this is not sent ahead, and is taken out of speech too, at once.
const SURPLUS_US: i64 = 60_000;
/// A smaller surplus must have lasted this long before a pause is made shorter...
const PAUSES_AFTER_US: u64 = 1_000_000;
/// ...and this long before speech is.
const SPEECH_AFTER_US: u64 = 3_000_000;
/// Of a backlog, the allowed length falls to nothing in this time: 3 s after a stall the call is as it was.
const CATCH_UP_US: u64 = 2_300_000;
/// A queue at Exotel that proved longer by less than this is made shorter by and by, however little may be late.
const STALE_US: i64 = 250_000;
/// A remainder below this is not worth a splice.
const ODD_MS: u32 = 2;
/// What waits here is sent when Exotel holds less than this.
const REFILL_US: u64 = 40_000;
/// A hole this long is no jitter: noise is sent in larger portions, to spare wake-ups.
const LONG_HOLE_US: u64 = 500_000;
const LONG_HOLE_PACKETS: usize = 3;
/// After this much noise the engine is taken for gone; its next audio starts anew.
const GIVE_UP_US: u64 = 30_000_000;

/// What an Exotel account demands of our payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlayoutProfile {
    /// Payloads as the engine makes them: mostly one frame of 80 ms.
    #[default]
    Standard,
    /// Payloads of at least 3,200 bytes, Exotel's documented minimum. At 8 kHz that is 200 ms, which three frames
    /// of 80 ms fill: 160 ms more delay than `Standard`.
    Strict,
    /// What is rarely late is bridged where it comes instead of being waited for ever after, and margins are smaller.
    /// On a quiet line that is 5 ms less (a packet on a quarter of all lines, as Exotel plays on a grid of packets);
    /// where a packet of TCP is lost once in a while, 20 to 100 ms less, and two to six times as many holes.
    LowDelay,
}

impl PlayoutProfile {
    /// How much earlier than needed audio should be at Exotel: scheduling on this machine and on that one.
    fn margin_us(self) -> i64 {
        match self {
            Self::Standard | Self::Strict => 8_000,
            Self::LowDelay => 3_000,
        }
    }

    /// A hole is bridged this long before Exotel runs dry: the way there.
    fn safety_us(self) -> u64 {
        match self {
            Self::Standard | Self::Strict => 5_000,
            Self::LowDelay => 2_000,
        }
    }

    /// Of the margin, what may be used up before a pause is made longer: by a clock that drifts it soon is, and a
    /// millisecond later speech would have to be concealed.
    fn reserve_us(self) -> i64 {
        self.margin_us() - self.safety_us() as i64 - 1_000
    }

    /// Whether what is late once in a while is waited for.
    fn covers_rare_delays(self) -> bool {
        self != Self::LowDelay
    }
}

/// How the playout behaves; the defaults suit Exotel.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayoutConfig {
    /// What the account demands of payloads.
    pub profile: PlayoutProfile,
    /// The most that is sent ahead of its time.
    pub max_ahead_ms: u32,
    /// The most of a backlog that is still worth hearing; what is older is cut.
    pub max_backlog_ms: u32,
    /// With more speech than this queued when the model falls silent for the caller, the queue is flushed.
    pub barge_in_ms: u32,
    /// Seed of the comfort noise: the same seed and calls give the same samples.
    pub seed: u64,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        Self {
            profile: PlayoutProfile::Standard,
            max_ahead_ms: 500,
            max_backlog_ms: 1000,
            barge_in_ms: 120,
            seed: 2,
        }
    }
}

/// What to do with what a call of [`Playout::push`] or [`Playout::poll`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send it (it may be nothing).
    Send,
    /// The caller barged in: send `clear` first, then it.
    ClearThenSend,
}

/// What the playout did so far: samples at the line's rate unless the name says otherwise.
///
/// `received + padded + stretched + concealed + noise = sent + buffered + removed + cut + flushed`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlayoutStats {
    /// Samples that the engine sent.
    pub received: u64,
    /// Samples that were sent to the phone.
    pub sent: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Before an engine's first audio and after its last, to fill packets: silence, or its last sound fading.
    pub padded: u64,
    /// Put into pauses.
    pub stretched: u64,
    /// Made by libopus to bridge a hole.
    pub concealed: u64,
    /// Comfort noise in longer holes.
    pub noise: u64,
    /// Taken out of pauses.
    pub removed_in_pauses: u64,
    /// Taken out of speech by making it faster.
    pub removed_in_speech: u64,
    /// Cut, as it was too old.
    pub cut: u64,
    /// Samples dropped here by flushes (what Exotel dropped is not known).
    pub flushed: u64,
    /// Flushes.
    pub flushes: u64,
    /// How often the engine's audio was missing.
    pub holes: u64,
    /// The longest of those.
    pub longest_hole_us: u64,
    /// How much longer than the earliest frame needs audio is held, on purpose.
    pub target_us: u64,
    /// How late the engine's frames are at worst, against the earliest.
    pub relative_delay_us: u64,
    /// What waited here after the last call.
    pub queued_us: u64,
    /// What Exotel held after the last call, by the model.
    pub remote_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing to play.
    Idle,
    /// The first audio is held back until then.
    Starting {
        at_us: u64,
    },
    Playing,
    /// Exotel ran out of the engine's audio; it gets something else.
    Bridging {
        since_us: u64,
        bridged: usize,
    },
}

/// Engine audio in, whole packets for the phone out; see the module.
#[derive(Debug)]
pub struct Playout {
    rate_hz: u32,
    packet: usize,
    payload: usize,
    config: PlayoutConfig,
    state: State,
    queue: SyncBuffer,
    concealment: Concealment,
    scratch: Vec<f32>,
    relative_delay: RelativeDelay,
    path: PhonePath,
    /// The guessed worst offset, and until when it counts.
    guess: (i64, u64),
    beat_us: i64,
    surplus_since_us: Option<u64>,
    behind_since_us: Option<u64>,
    barge_in: BargeIn,
    echo: Echo,
    /// What the engine was not given and so will never say: its later audio is later than its count says.
    skipped_us: i64,
    /// Exotel holds more than is worth hearing.
    stale: bool,
    stats: PlayoutStats,
}

impl Playout {
    /// A playout that has sent nothing.
    ///
    /// # Errors
    /// [`Error::Rate`] unless the rate is 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, config: PlayoutConfig) -> Result<Self> {
        if !matches!(rate_hz, 8000 | 16000 | 24000) {
            return Err(Error::Rate {
                rate_hz,
                expected: "8000, 16000 or 24000",
            });
        }
        let packet = (rate_hz / 1000 * PACKET_MS) as usize;
        let payload = match config.profile {
            PlayoutProfile::Strict => STRICT_SAMPLES.next_multiple_of(packet),
            PlayoutProfile::Standard | PlayoutProfile::LowDelay => packet,
        };
        Ok(Self {
            rate_hz,
            packet,
            payload,
            state: State::Idle,
            queue: SyncBuffer::new(rate_hz)?,
            concealment: Concealment::new(rate_hz, config.seed),
            scratch: Vec::new(),
            relative_delay: RelativeDelay::new(config.profile.covers_rare_delays()),
            path: PhonePath::new(config.profile.covers_rare_delays()),
            guess: (i64::MIN, 0),
            beat_us: 0,
            surplus_since_us: None,
            behind_since_us: None,
            barge_in: BargeIn::default(),
            echo: Echo::default(),
            skipped_us: 0,
            stale: false,
            stats: PlayoutStats::default(),
            config,
        })
    }

    /// The fewest samples that a payload may have, whole packets.
    #[must_use]
    pub fn payload_samples(&self) -> usize {
        self.payload
    }

    /// How much later than its first the engine's frames will come: see [`crate::uplink::intake::Intake::beat_us`].
    pub fn expect_beat(&mut self, beat_us: i64) {
        self.beat_us = beat_us;
    }

    /// The caller of this playout sent so much by itself, such as silence before the first audio.
    pub fn sent_aside(&mut self, samples: usize, now_us: u64) {
        self.path.sent(Source::Bridge, self.us(samples) as u64, now_us);
    }

    /// Engine audio arrived: appends what shall be sent now, always whole packets. `voice_level` is how loud the caller
    /// speaks, RMS, 0 while not (see [`crate::uplink::intake::Intake::voice_level`]).
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
        // If the first frame is the latest there will ever be, its own offset tells nothing.
        let in_beat_us = if was == State::Idle {
            self.beat_us.min(0)
        } else {
            0
        };
        self.relative_delay.observe(position_us - in_beat_us, now_us);
        self.stats.received += pcm.len() as u64;
        self.queue.background.observe(pcm);
        if was == State::Idle {
            self.start(pcm, position_us, now_us);
        } else {
            self.queue.push(pcm);
        }
        if let State::Bridging { since_us, .. } = was {
            let hole_us = now_us.saturating_sub(since_us);
            self.stats.longest_hole_us = self.stats.longest_hole_us.max(hole_us);
            self.state = State::Playing;
        }
        let step = self.interrupt(pcm, voice_level, now_us);
        self.adjust(self.us(pcm.len()), now_us);
        self.send(now_us, out);
        step
    }

    /// To be called at or after [`Playout::wake_us`]: sends what waited, or bridges a hole. `conceal` appends so many
    /// samples of libopus' concealment, at the line's rate.
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

    /// Whether a hole in the engine's audio is being bridged.
    #[must_use]
    pub fn is_bridging(&self) -> bool {
        matches!(self.state, State::Bridging { .. })
    }

    /// Whether it begins anew with the engine's next audio.
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

    /// Drops everything. True: Exotel still holds audio, a `clear` must be sent.
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

    /// The engine will send no more: appends what waits here, at most what may be sent ahead, in whole packets. It broke
    /// off in mid-word, so its last sound goes on for a moment, and fades. `conceal` as for [`Playout::poll`]. The next
    /// audio starts anew.
    pub fn stop(&mut self, now_us: u64, conceal: &mut dyn FnMut(usize, &mut Vec<f32>), out: &mut Vec<f32>) {
        let begin = out.len();
        let ahead_us = i64::from(self.config.max_ahead_ms) * 1000 - self.path.backlog_us(now_us) as i64;
        self.queue.take(self.at_rate(ahead_us.max(0)), out);
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

    /// How long the model has paused since it last spoke; `None` while it has not spoken.
    #[must_use]
    pub fn paused_us(&self) -> Option<u64> {
        self.barge_in.paused_us()
    }

    /// A mark that is due after what was just sent, if any.
    pub fn take_mark(&mut self, now_us: u64) -> Option<Mark> {
        self.path.mark_due(now_us)
    }

    /// The phone echoed a mark: what was sent before it has been played. `return_jitter_us`: by how much the phone's way to us
    /// varies.
    pub fn marked(&mut self, mark: Mark, return_jitter_us: u64, now_us: u64) {
        let longer_us = self.path.mark_echoed(mark, return_jitter_us, now_us);
        self.stale |= longer_us > STALE_US.max(i64::from(self.config.max_backlog_ms) * 1000);
    }

    /// When Exotel has played all that was sent.
    #[must_use]
    pub fn drained_at_us(&self) -> u64 {
        self.path.drained_at_us()
    }

    /// So much in all was never given to the engine: see [`crate::uplink::intake::Intake::not_given_us`].
    pub fn skip_to(&mut self, not_given_us: i64) {
        self.skipped_us = not_given_us;
    }

    /// Whether the phone's line shall be pinged now, to learn whether it still jitters.
    pub fn take_ping(&mut self, now_us: u64) -> bool {
        self.path.ping_due(now_us)
    }

    /// When to look at [`Playout::take_ping`] though nothing else happens, while there is something to learn.
    #[must_use]
    pub fn ping_wake_us(&self) -> Option<u64> {
        self.path.ping_wake_us()
    }

    /// A ping came back from the phone's end after so long; `return_jitter_us`: by how much the phone's way to us varies.
    pub fn round_trip(&mut self, trip_us: u64, return_jitter_us: u64, now_us: u64) {
        self.path.pong(trip_us, return_jitter_us, now_us);
    }

    /// Samples that engines sent.
    #[must_use]
    pub fn received_samples(&self) -> u64 {
        self.stats.received
    }

    /// Samples of theirs, and of what stood in for them, that were sent to the phone.
    #[must_use]
    pub fn sent_samples(&self) -> u64 {
        self.stats.sent
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
            queued_us: self.us(self.queue.len()) as u64,
            relative_delay_us: self.relative_delay.spread_us().max(0) as u64,
            ..self.stats
        }
    }

    /// The first audio: held back until the latest frame of the beat will still be in time. If it is itself the
    /// latest, packets of it are left out instead.
    fn start(&mut self, pcm: &[f32], position_us: i64, now_us: u64) {
        let offset_us = now_us as i64 - position_us;
        self.guess = (offset_us + self.beat_us, now_us + GUESS_US);
        // A resampler's first block is short; without this each frame would leave a remainder for ever.
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
            self.guess.0 + self.config.profile.margin_us() + self.path.margin_us(now_us) - offset_us;
        let packet_us = self.us(self.packet);
        while wait_us < 0 && self.queue.len() > self.packet {
            self.stats.cut += self.queue.cut(self.packet) as u64;
            wait_us += packet_us;
        }
        self.state = State::Starting {
            at_us: now_us + wait_us.max(0) as u64,
        };
    }

    /// A payload waits here until it is full, by so much longer than one frame.
    fn payload_wait_us(&self) -> i64 {
        (self.us(self.payload) + FRAME_US - 1) / FRAME_US * FRAME_US - FRAME_US
    }

    /// The offset from its position at which audio should be heard.
    fn wanted_us(&self, now_us: u64) -> i64 {
        let (guess_us, until_us) = self.guess;
        let mut late_us = self.relative_delay.late_offset_us();
        if now_us < until_us {
            late_us = late_us.max(guess_us);
        }
        late_us + self.config.profile.margin_us() + self.payload_wait_us() + self.path.margin_us(now_us)
    }

    /// How much later than it has to the newest audio will be heard.
    fn slack_us(&self, now_us: u64) -> i64 {
        let heard_us = self.path.next_plays_us(now_us) as i64 + self.us(self.queue.len());
        heard_us - self.position_us() - self.wanted_us(now_us)
    }

    /// Takes surplus out of what just came, or puts in what is missing.
    fn adjust(&mut self, pushed_us: i64, now_us: u64) {
        if matches!(self.state, State::Starting { .. }) {
            return;
        }
        let slack_us = self.slack_us(now_us);
        // A frame that came too late for all that was held has nothing before it that could be taken out.
        let ahead_us = self.path.backlog_us(now_us) as i64 + self.us(self.queue.len());
        let surplus_us = slack_us.min(ahead_us - pushed_us - self.config.profile.margin_us());
        let surplus = self.at_rate(surplus_us.max(0));
        let odd = self.queue.len() % self.packet;
        self.stats.target_us = (self.wanted_us(now_us) - self.relative_delay.least_offset_us()).max(0) as u64;
        if surplus_us < self.us(self.packet) {
            self.surplus_since_us = None;
        }
        let since_us = *self.surplus_since_us.get_or_insert(now_us);
        let lasted_us = now_us - since_us;
        // Once at it, all of it goes.
        let behind = self.behind_since_us.is_some() && surplus_us > self.us(self.packet);
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
        } else if surplus >= odd && odd >= self.at_rate(i64::from(ODD_MS) * 1000) {
            self.stats.removed_in_pauses += self.queue.shorten_pauses(odd) as u64;
        } else if slack_us - self.us(odd) < -self.config.profile.reserve_us() {
            let missing = self.packet - odd;
            self.stats.stretched += if self.path.margin_us(now_us) > 0 {
                // A hole at Exotel would be heard for certain, this hardly.
                self.queue.lengthen(missing)
            } else {
                self.queue.lengthen_pause(missing)
            } as u64;
        }
    }

    /// Cuts what is still too much, as the time allowed for catching up goes by.
    fn cut(&mut self, surplus: usize, now_us: u64) {
        let since_us = *self.behind_since_us.get_or_insert(now_us);
        let left_us = CATCH_UP_US.saturating_sub(now_us - since_us);
        let most_us = i64::from(self.config.max_backlog_ms) * 1000 * left_us as i64 / CATCH_UP_US as i64;
        let too_much = surplus.saturating_sub(self.at_rate(most_us.max(SURPLUS_US)));
        let odd = self.queue.len() % self.packet;
        if too_much >= odd + self.packet {
            let whole = odd + (too_much - odd) / self.packet * self.packet;
            self.stats.cut += self.queue.cut(whole) as u64;
        }
    }

    /// Sends what Exotel needs, as payloads.
    fn send(&mut self, now_us: u64, out: &mut Vec<f32>) {
        if matches!(self.state, State::Starting { .. } | State::Idle) {
            return;
        }
        let needed_us =
            FRAME_US + SURPLUS_US + self.wanted_us(now_us) - self.relative_delay.least_offset_us();
        let limit_us = needed_us.min(i64::from(self.config.max_ahead_ms) * 1000);
        let room = self.at_rate((limit_us - self.path.backlog_us(now_us) as i64).max(0));
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
            .plays(pcm, self.path.next_plays_us(now_us), now_us, self.rate_hz);
        self.path.sent(Source::Agent, self.us(pcm.len()) as u64, now_us);
        self.stats.sent += pcm.len() as u64;
    }

    /// Exotel is about to run dry: one payload of something else, after what little waits here.
    fn bridge(&mut self, now_us: u64, conceal: &mut Conceal<'_>, out: &mut Vec<f32>) {
        let (since_us, bridged) = match self.state {
            State::Bridging { since_us, bridged } => (since_us, bridged),
            _ => {
                self.stats.holes += 1;
                self.concealment.begin_gap(&self.queue.background);
                (self.path.drained_at_us().max(now_us), 0)
            }
        };
        let hole_us = now_us.saturating_sub(since_us);
        self.stats.longest_hole_us = self.stats.longest_hole_us.max(hole_us);
        if hole_us > GIVE_UP_US {
            self.state = State::Idle;
            return;
        }
        let packets = if hole_us > LONG_HOLE_US {
            LONG_HOLE_PACKETS
        } else {
            1
        };
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

    /// Appends a packet of how the last sound would go on; returns how long that is: nothing if nothing was playing.
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

    /// Whether what is queued need not be heard any more: the model fell silent for the caller, or Exotel's queue
    /// proved so long that all of it is stale.
    fn interrupt(&mut self, pcm: &[f32], voice_level: f32, now_us: u64) -> Step {
        let ahead_us = self.path.backlog_us(now_us) as i64 + self.us(self.queue.len());
        let is_pause = self.queue.background.is_pause(pcm);
        let caller_speaking = voice_level > 0.0 && self.echo.is_exceeded_by(voice_level, now_us);
        // With an account's larger payloads more waits here as a rule.
        let bound_us = i64::from(self.config.barge_in_ms) * 1000 + self.payload_wait_us();
        self.barge_in.heard(is_pause, self.us(pcm.len()), caller_speaking);
        let barge_in = self
            .barge_in
            .stale_speech_us(ahead_us, caller_speaking)
            .is_some_and(|speech_us| speech_us > bound_us);
        if !barge_in && !self.stale {
            return Step::Send;
        }
        // The newest is what shall be heard now; it starts the queue anew.
        let kept = pcm.len().min(self.queue.len()) / self.packet * self.packet;
        self.stats.flushed += self.queue.cut(self.queue.len() - kept) as u64;
        // Exotel breaks off somewhere in what it held: nobody knows where.
        self.queue.fade_in_from_silence();
        self.stats.flushes += 1;
        self.barge_in = BargeIn::default();
        self.stale = false;
        self.path.cleared(now_us);
        self.echo.cut(now_us);
        Step::ClearThenSend
    }

    /// How much of the conversation's time the engine's audio stands for.
    fn position_us(&self) -> i64 {
        self.us(self.stats.received as usize) + self.skipped_us
    }

    fn us(&self, samples: usize) -> i64 {
        samples as i64 * 1_000_000 / i64::from(self.rate_hz)
    }

    fn at_rate(&self, us: i64) -> usize {
        (us * i64::from(self.rate_hz) / 1_000_000) as usize
    }
}
