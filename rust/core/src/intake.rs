//! The model's clock: keeps the engine fed at real time, whatever the phone does.
//!
//! PersonaPlex steps when 80 ms of the caller are there: the caller's audio is its clock, and whatever delay enters
//! here stays in the call unless it is taken out again. So:
//! - before the engine is ready only the newest 80 ms are kept;
//! - in steady state everything passes through as it arrives, late or not;
//! - when the phone is later than it ever is, comfort noise takes its place, at the phone's own pace;
//! - when the missing audio comes after all, as much is taken out as was put in: it waits here and is made shorter
//!   (pauses, then speech, then a cut) while the model goes on at the pace of the clock;
//! - an engine that does not answer any more is fed no more than a backlog is worth, so that it has little to work off when it
//!   (or the network to it) is back: until then, again, only the newest 80 ms are kept;
//! - an engine that answers more slowly than the caller speaks gets what it can work off: the rest waits here and is made
//!   shorter in the same way, so that the conversation stays within a second of what it would be.
//!
//! Everything that goes out is counted in whole 20 ms, so that Opus frames and the model's steps stay in phase with
//! the phone's chunks; the wrong phase costs up to 20 ms for the rest of the call.

use crate::answers::Answers;
use crate::backlog::{Backlog, cross_fade};
use crate::drift::Drift;
use crate::error::{Error, Result};
use crate::lateness::Lateness;
use crate::noise::ComfortNoise;
use crate::patience::Patience;
use crate::span::Span;
use crate::timescale::{Change, KNOWN_MS, die_away};
use crate::voice::Voice;

/// The model's frame (12.5 Hz): the most that is worth keeping of what came before the engine was ready.
pub const FRAME_MS: u32 = 80;
/// What goes to the engine is a multiple of this: one Opus frame, and a divisor of 80.
const GRID_MS: u32 = 20;
/// In a stall noise goes out at this pace at the slowest: less than any beat the playout is used to.
const STALL_STEP_MS: u32 = 40;
/// The lateness is believed when it has been watched for this long.
const KNOWN_AFTER_US: u64 = 2_000_000;
/// A phone that has not sent anything by then is stalled from the start.
const FIRST_AUDIO_US: u64 = 300_000;
/// Of a backlog, the allowed length falls to nothing in this time: 3 s after a stall the call is as it was.
const CATCH_UP_US: u64 = 2_300_000;
/// An engine that has not answered for so long, or for as long as a backlog may be if that is longer, is fed no
/// further: networks hesitate for less.
const PATIENCE_US: u64 = 1_000_000;
/// An engine that does not answer is given one frame in so long: if it lost what it had, it needs one to speak up.
const PROBE_US: u64 = 2_000_000;
/// An engine whose answers have all been behind for so long is slower than the caller: one that was only held up for a
/// moment has caught up by then.
const SLOW_AFTER_US: u64 = 1_000_000;
/// A slow engine is given so much beyond what it usually owes, so that it never waits for us.
const SLOW_AHEAD_MS: u32 = 160;
/// Of what waits for a slow engine, speech is made faster above this only: a pause may come first.
const SLOW_SPEECH_ABOVE_MS: u32 = 200;
/// At the end, no more than this waits for a slow engine: with an engine at 70 % of real time, the caller is heard 0.8 s
/// later than usual at worst. Beyond it, all but one chunk is cut: one cut costs fewer words than many.
const SLOW_BACKLOG_MS: u32 = 400;
/// What was put in and is not missing any more after this time was lost by the phone, not late.
const FORGIVE_US: u64 = 1_000_000;
/// After so many frames any beat of chunks of whole 20 ms has come round.
const BEAT_FRAMES: i64 = 25;
/// Seams from comfort noise, and to the gate, are faded over this.
const FADE_MS: u32 = 5;
/// A word that breaks off is faded over this, with its own last sound.
const DIE_AWAY_MS: u32 = 20;

/// How the intake behaves; the defaults suit a telephone line.
#[derive(Debug, Clone, PartialEq)]
pub struct IntakeConfig {
    /// The phone's first audio, this much of it, is replaced by digital silence: a line cracks when it opens.
    pub gate_ms: u32,
    /// The most of a backlog that is still worth hearing; what is older is cut.
    pub max_backlog_ms: u32,
    /// Seed of the comfort noise: the same seed and calls give the same samples.
    pub seed: u64,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            gate_ms: 200,
            max_backlog_ms: 1000,
            seed: 1,
        }
    }
}

/// What the intake did so far: samples at the line's rate unless the name says otherwise.
///
/// `received + inserted = emitted + dropped + withheld + removed + cut + buffered`, where removed is pauses and speech.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IntakeStats {
    /// Samples that the phone sent.
    pub received: u64,
    /// Samples that the engine got.
    pub emitted: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Samples that were dropped because no engine was ready.
    pub dropped: u64,
    /// Samples that were withheld from an engine that did not answer.
    pub withheld: u64,
    /// How often it did not answer for so long that audio was withheld from it.
    pub holds: u64,
    /// How often it was so slow that audio was made shorter for it.
    pub slow: u64,
    /// Samples of the opening that were replaced by silence.
    pub gated: u64,
    /// Comfort noise in place of missing audio.
    pub inserted: u64,
    /// Taken out of pauses again.
    pub removed_in_pauses: u64,
    /// Taken out of speech again by making it faster.
    pub removed_in_speech: u64,
    /// Cut, as it was too old.
    pub cut: u64,
    /// How often the phone stalled.
    pub stalls: u64,
    /// The longest of those, from when the audio was due.
    pub longest_stall_us: u64,
    /// How late the phone's audio usually is at worst, against its earliest.
    pub lateness_us: u64,
    /// How late it must be to be called stalled.
    pub wait_us: u64,
    /// How long a sample arriving now waits here before the model gets it.
    pub delay_us: u64,
    /// The phone's chunk: how long its oldest sample waited there.
    pub chunk_us: u64,
    /// How much faster the phone's clock runs than ours, in parts per million; `None` until a minute was heard.
    pub drift_ppm: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// No engine: the newest 80 ms are kept.
    Closed,
    /// All that arrives goes on.
    Steady,
    /// The phone is late: noise goes out in its place.
    Stalled { due_us: u64 },
    /// Noise went out and the missing audio may have come: what waits is made shorter.
    Behind { since_us: u64, on_time_since_us: u64 },
    /// The engine does not answer: the newest 80 ms are kept, and it gets some of them from time to time.
    Held { probe_us: u64 },
    /// The engine is slower than the caller: it gets what it can take, and the rest waits and is made shorter.
    Slow { since_us: u64 },
    /// It has answered: the newest go out at once, and everything from then on.
    Answered { at_us: u64 },
}

/// Phone audio in, the model's input out; see the module.
#[derive(Debug)]
pub struct Intake {
    rate_hz: u32,
    config: IntakeConfig,
    state: State,
    queue: Backlog,
    noise: ComfortNoise,
    lateness: Lateness,
    patience: Patience,
    drift: Drift,
    arrivals: Span,
    opened_us: u64,
    answers: Answers,
    /// What was left out because an engine was slow.
    left_out: usize,
    /// How long the newest audio had waited when the engine opened.
    opened_late_us: i64,
    /// How much audio that was.
    opened_with: usize,
    arrived_us: Option<u64>,
    /// Samples that the present engine got.
    position: u64,
    /// Noise put in and not taken out again.
    debt: usize,
    chunk: usize,
    gate_left: usize,
    seam: Vec<f32>,
    /// The last of the caller that the present engine got, and whether comfort noise came after it.
    past: Vec<f32>,
    in_noise: bool,
    voice: Voice,
    heard_us: u64,
    stats: IntakeStats,
}

impl Intake {
    /// An intake that waits for its engine.
    ///
    /// # Errors
    /// [`Error::Rate`] unless the rate is 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, config: IntakeConfig) -> Result<Self> {
        if !matches!(rate_hz, 8000 | 16000 | 24000) {
            return Err(Error::Rate {
                rate_hz,
                expected: "8000, 16000 or 24000",
            });
        }
        Ok(Self {
            rate_hz,
            state: State::Closed,
            queue: Backlog::new(rate_hz)?,
            noise: ComfortNoise::new(config.seed),
            lateness: Lateness::new(true),
            patience: Patience::default(),
            drift: Drift::new(),
            arrivals: Span::default(),
            opened_us: 0,
            answers: Answers::new((rate_hz / 1000 * FRAME_MS) as usize),
            left_out: 0,
            opened_late_us: 0,
            opened_with: 0,
            arrived_us: None,
            position: 0,
            debt: 0,
            chunk: 0,
            gate_left: (rate_hz / 1000 * config.gate_ms) as usize,
            seam: Vec::new(),
            past: Vec::new(),
            in_noise: false,
            voice: Voice::new(rate_hz),
            heard_us: 0,
            stats: IntakeStats::default(),
            config,
        })
    }

    /// Phone audio arrived: appends what the engine shall have now (nothing while no engine is open).
    pub fn push(&mut self, pcm: &[f32], now_us: u64, out: &mut Vec<f32>) {
        if pcm.is_empty() {
            return;
        }
        self.stats.received += pcm.len() as u64;
        self.chunk = pcm.len();
        self.arrived_us = Some(now_us);
        self.enqueue(pcm, now_us);
        let position_us = self.us(self.stats.received as usize);
        self.drift.observe(position_us, now_us);
        self.arrivals.observe(now_us as i64 - position_us, now_us);
        let emitted = self.stats.emitted;
        self.mind_engine(now_us, out);
        match self.state {
            State::Closed | State::Held { .. } | State::Answered { .. } => {}
            State::Steady | State::Stalled { .. } | State::Behind { .. } | State::Slow { .. } => {
                self.learn(now_us)
            }
        }
        match self.state {
            State::Closed | State::Held { .. } => self.keep_newest(),
            State::Answered { .. } => {}
            State::Steady => self.emit(self.queue.len(), out),
            State::Stalled { due_us } => {
                self.stats.longest_stall_us = self.stats.longest_stall_us.max(now_us.saturating_sub(due_us));
                self.state = State::Behind {
                    since_us: now_us,
                    on_time_since_us: now_us,
                };
                self.catch_up(now_us, out);
            }
            State::Behind { .. } => self.catch_up(now_us, out),
            State::Slow { since_us } => {
                self.shorten_for_slow(since_us, now_us);
                self.feed_slow(out);
            }
        }
        self.count_fed(emitted, now_us);
    }

    /// The engine is ready: the newest 80 ms go out, and from now on everything.
    pub fn open(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.answers.begin();
        self.past.clear();
        self.in_noise = false;
        let emitted = self.stats.emitted;
        self.resume(now_us, out);
        self.count_fed(emitted, now_us);
    }

    /// The engine said so many samples: it has what they answer.
    pub fn answered(&mut self, samples: usize, now_us: u64) {
        self.answers.hear(samples, now_us);
        if let State::Held { .. } = self.state {
            self.state = State::Answered { at_us: now_us };
        }
    }

    /// How long after a frame's last sample was given to the engine its answer came; `None` before the first one.
    #[must_use]
    pub fn round_trip_us(&self) -> Option<u64> {
        self.answers.round_trip_us()
    }

    /// How much of the caller's time engines were not given, as they did not answer or were slow.
    #[must_use]
    pub fn withheld_us(&self) -> i64 {
        self.us(self.stats.withheld as usize + self.left_out)
    }

    /// The engine is gone: only the newest audio is kept until [`Intake::open`] is called for the next one.
    pub fn close(&mut self, _now_us: u64) {
        self.state = State::Closed;
        self.keep_newest();
    }

    /// To be called at or after [`Intake::wake_us`]: appends what the engine shall have though nothing arrived.
    pub fn poll(&mut self, now_us: u64, out: &mut Vec<f32>) {
        if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
            return;
        }
        let emitted = self.stats.emitted;
        self.mind_engine(now_us, out);
        match self.state {
            State::Held { .. } | State::Closed | State::Answered { .. } => {}
            State::Slow { .. } => self.feed_slow(out),
            State::Steady | State::Stalled { .. } | State::Behind { .. } => self.stand_in(now_us, out),
        }
        self.count_fed(emitted, now_us);
    }

    /// The phone is late: what the model's clock asks for goes out, noise where there is nothing else.
    fn stand_in(&mut self, now_us: u64, out: &mut Vec<f32>) {
        if let State::Steady | State::Behind { .. } = self.state {
            if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
                return;
            }
            self.stats.stalls += 1;
            self.noise.follow(&self.queue.background);
            self.state = State::Stalled {
                due_us: self.next_chunk_us(self.lateness.best_us()),
            };
        }
        let due = self.due(now_us);
        let real = due.min(self.queue.len());
        self.emit(real, out);
        self.insert_noise(due - real, out);
    }

    /// When [`Intake::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        match self.state {
            State::Closed | State::Held { .. } => None,
            State::Answered { at_us } => Some(at_us),
            State::Slow { .. } => self.slow_goes_on().then_some(self.heard_us),
            State::Steady | State::Behind { .. } if self.arrived_us.is_none() => {
                Some(self.opened_us + FIRST_AUDIO_US)
            }
            State::Steady | State::Behind { .. } => {
                Some(self.next_chunk_us(self.lateness.best_us() + self.wait_us()))
            }
            State::Stalled { .. } => {
                let step = self
                    .chunk
                    .clamp(self.samples(GRID_MS), self.samples(STALL_STEP_MS));
                Some(self.at_us(self.position as usize + step, self.lateness.best_us()))
            }
        }
    }

    /// How loud the caller speaks, RMS; 0 while nothing but the line's background is heard.
    #[must_use]
    pub fn voice_level(&self) -> f32 {
        self.voice.level()
    }

    /// How much later than the first frame after [`Intake::open`] the model's later frames will be complete, against
    /// real time: chunks that do not fill whole frames make a beat. Negative: the first one is the latest, as it had
    /// to wait for the engine.
    #[must_use]
    pub fn beat_us(&self) -> i64 {
        let chunk_us = self.us(self.chunk).max(1);
        let frame_us = i64::from(FRAME_MS) * 1000;
        let opening_us = self.us(self.opened_with);
        // The frame ending at `end_us` is complete when so much time has passed since the opening's newest sample.
        let complete_us = |end_us: i64| (end_us - opening_us + chunk_us - 1).max(0) / chunk_us * chunk_us;
        let first_us = complete_us(frame_us).max(self.opened_late_us);
        let late_us = |frame: i64| complete_us((frame + 1) * frame_us) - frame * frame_us - first_us;
        (1..=BEAT_FRAMES).map(late_us).max().unwrap_or(0)
    }

    /// By how much the phone's way to us has varied in the last seconds.
    #[must_use]
    pub fn way_varies_us(&self) -> u64 {
        self.arrivals.us(self.heard_us)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> IntakeStats {
        IntakeStats {
            buffered: self.queue.len() as u64,
            lateness_us: self.lateness.spread_us().max(0) as u64,
            wait_us: self.wait_us() as u64,
            delay_us: self.us(self.queue.len()) as u64,
            chunk_us: self.us(self.chunk) as u64,
            drift_ppm: self.drift.ppm(),
            ..self.stats
        }
    }

    /// Takes phone audio into the queue: gated at first, and listened to.
    fn enqueue(&mut self, pcm: &[f32], now_us: u64) {
        let gated = self.gate_left.min(pcm.len());
        self.gate_left -= gated;
        self.stats.gated += gated as u64;
        self.seam.clear();
        self.seam.resize(gated, 0.0);
        self.queue.push(&self.seam);
        let heard = &pcm[gated..];
        self.queue.background.observe(heard);
        self.queue.push(heard);
        if gated > 0 {
            self.seam.clear();
            self.seam.resize(self.samples(FADE_MS), 0.0);
            cross_fade(self.queue.newest(heard.len()), &self.seam);
        }
        self.heard_us = now_us;
        self.voice.hear(heard, self.queue.background.floor());
    }

    /// Holds audio back from an engine that does not answer, and lets it go when it does.
    fn mind_engine(&mut self, now_us: u64, out: &mut Vec<f32>) {
        match self.state {
            State::Closed => {}
            State::Answered { .. } => self.resume(now_us, out),
            State::Held { probe_us } if now_us >= probe_us => {
                self.resume(now_us, out);
                self.state = State::Held {
                    probe_us: now_us + PROBE_US,
                };
            }
            State::Held { .. } => {}
            State::Steady | State::Stalled { .. } | State::Behind { .. } => {
                let patience_us = PATIENCE_US.max(u64::from(self.config.max_backlog_ms) * 1000);
                // Of a chunk, the last frame is answered late by right, and the first of the next is not.
                let slow_after_us = SLOW_AFTER_US + self.us(self.chunk) as u64;
                if self.answers.silent_us(now_us).is_some_and(|us| us > patience_us) {
                    self.stats.holds += 1;
                    self.state = State::Held {
                        probe_us: now_us + PROBE_US,
                    };
                } else if self.answers.behind_us().is_some_and(|us| us > slow_after_us) {
                    self.stats.slow += 1;
                    self.state = State::Slow { since_us: now_us };
                }
            }
            State::Slow { .. } => {
                // Given nothing, it says nothing: it owes nothing, whatever the count says.
                if self.answers.silent_us(now_us).is_some_and(|us| us > PATIENCE_US) {
                    self.answers.write_off();
                }
            }
        }
    }

    /// What just came is made shorter, as the engine cannot take all of it.
    fn shorten_for_slow(&mut self, since_us: u64, now_us: u64) {
        let too_much = self.queue.len().saturating_sub(self.slow_room());
        let change = if too_much > self.samples(SLOW_SPEECH_ABOVE_MS) {
            self.queue.shorten(too_much)
        } else {
            Change {
                in_pauses: self.queue.shorten_pauses(too_much),
                in_speech: 0,
            }
        };
        self.stats.removed_in_pauses += change.in_pauses as u64;
        self.stats.removed_in_speech += change.in_speech as u64;
        // What it was behind by at first is worth hearing; what it falls behind by further is not.
        let least_us = u64::from(SLOW_BACKLOG_MS) * 1000;
        let most = self.still_allowed(since_us, now_us, least_us).max(2 * self.chunk);
        let cut = if too_much - change.total() > most {
            self.queue.cut(too_much - change.total() - self.chunk)
        } else {
            0
        };
        self.stats.cut += cut as u64;
        self.leave_out(change.total() + cut);
    }

    /// The slow engine gets what it can take; once it can take all, it is no slow one any more.
    fn feed_slow(&mut self, out: &mut Vec<f32>) {
        let grid = self.samples(GRID_MS);
        self.emit(self.slow_room().min(self.queue.len()) / grid * grid, out);
        if self.queue.len() < grid && !self.answers.is_behind() {
            // Off the grid, each step of the model would wait for one more chunk for the rest of the call.
            let odd = (self.position as usize + self.queue.len()) % grid;
            if self.chunk.is_multiple_of(grid) {
                let cut = self.queue.cut(odd);
                self.stats.cut += cut as u64;
                self.leave_out(cut);
            }
            self.debt = 0;
            self.state = State::Steady;
            self.emit(self.queue.len(), out);
        }
    }

    /// Whether an engine's answer has made room for what waits.
    fn slow_goes_on(&self) -> bool {
        let grid = self.samples(GRID_MS);
        let room = self.slow_room() >= grid;
        room && (self.queue.len() >= grid || !self.answers.is_behind())
    }

    fn slow_room(&self) -> usize {
        self.samples(SLOW_AHEAD_MS).saturating_sub(self.answers.owed())
    }

    /// So much of the call's time the engine is not given: first of what was put in, and else for good.
    fn leave_out(&mut self, samples: usize) {
        let put_in = samples.min(self.debt);
        self.debt -= put_in;
        self.left_out += samples - put_in;
        self.position += (samples - put_in) as u64;
    }

    /// How many samples of a backlog are still worth hearing: fewer and fewer since it began.
    fn still_allowed(&self, since_us: u64, now_us: u64, least_us: u64) -> usize {
        let left_us = CATCH_UP_US.saturating_sub(now_us.saturating_sub(since_us));
        let most_us = u64::from(self.config.max_backlog_ms) * 1000 * left_us / CATCH_UP_US;
        most_us.max(least_us) as usize * self.rate_hz as usize / 1_000_000
    }

    fn count_fed(&mut self, emitted_before: u64, now_us: u64) {
        self.answers
            .feed((self.stats.emitted - emitted_before) as usize, now_us);
    }

    /// The newest 80 ms go out, in whole 20 ms, and the clock begins anew with them.
    fn resume(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.goes_on_like();
        self.queue.follow(&self.seam);
        self.keep_newest();
        self.drop_oldest(self.queue.len() % self.samples(GRID_MS));
        self.position = 0;
        self.debt = 0;
        self.opened_us = now_us;
        self.lateness.reset();
        self.state = State::Steady;
        let arrived_us = self.arrived_us.unwrap_or(now_us);
        self.opened_late_us = now_us.saturating_sub(arrived_us) as i64;
        self.opened_with = self.queue.len();
        self.emit(self.queue.len(), out);
        self.lateness.observe(self.us(self.position as usize), arrived_us);
    }

    fn keep_newest(&mut self) {
        self.drop_oldest(self.queue.len().saturating_sub(self.samples(FRAME_MS)));
    }

    fn drop_oldest(&mut self, samples: usize) {
        let dropped = self.queue.cut(samples) as u64;
        if let State::Held { .. } | State::Answered { .. } = self.state {
            self.stats.withheld += dropped;
        } else {
            self.stats.dropped += dropped;
        }
    }

    /// How late the newest audio is, against the phone's clock: noise stands in for what is still to come, so that what
    /// comes in a stall is seen to be as late as it is.
    fn learn(&mut self, now_us: u64) {
        let position_us = self.us(self.position as usize + self.queue.len() - self.debt);
        self.lateness.observe(position_us, now_us);
        let late_us = now_us as i64 - position_us - self.lateness.best_us();
        self.patience.observe(late_us, now_us);
    }

    /// Audio arrived after noise went out in its place.
    fn catch_up(&mut self, now_us: u64, out: &mut Vec<f32>) {
        let State::Behind {
            since_us,
            mut on_time_since_us,
        } = self.state
        else {
            return;
        };
        let surplus = self.surplus(now_us);
        if surplus > 0 {
            on_time_since_us = now_us;
            let change = self.queue.shorten(surplus);
            self.stats.removed_in_pauses += change.in_pauses as u64;
            self.stats.removed_in_speech += change.in_speech as u64;
            // Below a frame a pause will come before anybody notices; above it, time is up.
            let most = self.still_allowed(since_us, now_us, u64::from(GRID_MS) * 1000);
            let cut = self.queue.cut((surplus - change.total()).saturating_sub(most));
            self.stats.cut += cut as u64;
            self.debt -= change.total() + cut;
        }
        if self.debt == 0 || now_us.saturating_sub(on_time_since_us) > FORGIVE_US {
            // Off the grid, each step of the model would wait for one more chunk for the rest of the call.
            let odd = (self.position as usize + self.queue.len()) % self.samples(GRID_MS);
            if self.debt > 0 && self.chunk.is_multiple_of(self.samples(GRID_MS)) {
                self.stats.cut += self.queue.cut(odd) as u64;
            }
            self.debt = 0;
            self.state = State::Steady;
            self.emit(self.queue.len(), out);
            return;
        }
        self.state = State::Behind {
            since_us,
            on_time_since_us,
        };
        let due = self
            .due(now_us)
            .max(self.queue.len().saturating_sub(self.debt) / self.samples(GRID_MS) * self.samples(GRID_MS));
        self.emit(due.min(self.queue.len()), out);
    }

    /// How much of what waits is too much: ahead of the clock, and put in by us.
    fn surplus(&self, now_us: u64) -> usize {
        let end_us = self.us(self.position as usize + self.queue.len());
        let ahead_us = end_us + self.lateness.best_us() - now_us as i64;
        let ahead = ahead_us.max(0) as u64 * u64::from(self.rate_hz) / 1_000_000;
        (ahead as usize).min(self.debt).min(self.queue.len())
    }

    /// What the model should have got by now and has not, in whole 20 ms.
    fn due(&self, now_us: u64) -> usize {
        let grid_us = i64::from(GRID_MS) * 1000;
        let due_us = now_us as i64 - self.lateness.best_us() - self.us(self.position as usize);
        // Rounded, as a chunk that is a moment early is not one step short.
        ((due_us + grid_us / 2).max(0) / grid_us) as usize * self.samples(GRID_MS)
    }

    fn emit(&mut self, samples: usize, out: &mut Vec<f32>) {
        let at = out.len();
        let taken = self.queue.take(samples, out);
        if taken > 0 {
            let known = self.rate_hz as usize / 1000 * KNOWN_MS;
            self.past
                .extend_from_slice(&out[at + taken.saturating_sub(known)..]);
            self.past.drain(..self.past.len().saturating_sub(known));
            self.in_noise = false;
        }
        self.position += taken as u64;
        self.stats.emitted += taken as u64;
    }

    /// Puts into `seam` how what the engine got last would have gone on, for a fade.
    fn goes_on_like(&mut self) {
        let fade = self.samples(FADE_MS);
        self.seam.clear();
        if self.in_noise {
            self.noise.clone().fill(fade, &mut self.seam);
        } else {
            die_away(&self.past, self.rate_hz, fade, &mut self.seam);
        }
    }

    fn insert_noise(&mut self, samples: usize, out: &mut Vec<f32>) {
        if samples == 0 {
            return;
        }
        let at = out.len();
        self.noise.fill(samples, out);
        if !self.in_noise {
            self.seam.clear();
            let fade = self.samples(DIE_AWAY_MS).min(samples);
            die_away(&self.past, self.rate_hz, fade, &mut self.seam);
            for (sample, dying) in out[at..].iter_mut().zip(&self.seam) {
                *sample += dying;
            }
        }
        self.in_noise = true;
        self.goes_on_like();
        self.queue.follow(&self.seam);
        self.position += samples as u64;
        self.debt += samples;
        self.stats.emitted += samples as u64;
        self.stats.inserted += samples as u64;
    }

    /// How late the phone must be to be called stalled.
    fn wait_us(&self) -> i64 {
        let known = self.heard_us > self.opened_us + KNOWN_AFTER_US;
        let spread_us = known.then(|| self.lateness.spread_us());
        self.patience.wait_us(spread_us, self.heard_us)
    }

    /// When the model shall have the next chunk if the phone is late by `offset_us`.
    fn next_chunk_us(&self, offset_us: i64) -> u64 {
        self.at_us(self.position as usize + self.chunk, offset_us)
    }

    fn at_us(&self, position: usize, offset_us: i64) -> u64 {
        (self.us(position) + offset_us).max(0) as u64
    }

    fn us(&self, samples: usize) -> i64 {
        samples as i64 * 1_000_000 / i64::from(self.rate_hz)
    }

    fn samples(&self, ms: u32) -> usize {
        (self.rate_hz / 1000 * ms) as usize
    }
}
