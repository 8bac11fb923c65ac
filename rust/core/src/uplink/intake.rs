//! The model's clock: keeps the engine fed at real time, whatever the phone does.
//!
//! PersonaPlex steps when 80 ms of the caller are there: the caller's audio is its clock, and whatever delay enters
//! here stays in the call unless it is taken out again. So:
//! - before the engine is ready only the newest 80 ms are kept;
//! - in steady state everything passes through as it arrives, late or not;
//! - when the phone is later than it ever is, comfort noise takes its place, at the phone's own pace;
//! - when the missing audio comes after all, as much is taken out as was put in: it waits here and is made shorter
//!   (pauses, then speech, then a cut) while the model goes on at the pace of the clock;
//! - an engine that is slower than the caller is given less than is said ([`EngineBacklog`]): made shorter, or nothing for a while;
//! - an engine that does not answer any more is fed no more than a backlog is worth, so that it has little to work off when it
//!   (or the network to it) is back: until then, again, only the newest 80 ms are kept.
//!
//! Everything that goes out is counted in whole 20 ms, so that Opus frames and the model's steps stay in phase with
//! the phone's chunks; the wrong phase costs up to 20 ms for the rest of the call.

use crate::dsp::drift::Drift;
use crate::dsp::noise::ComfortNoise;
use crate::dsp::relative_delay::RelativeDelay;
use crate::dsp::sync_buffer::{SyncBuffer, cross_fade};
use crate::dsp::timescale::{KNOWN_MS, die_away};
use crate::dsp::vad::Vad;
use crate::dsp::windowed_range::WindowedRange;
use crate::error::{Error, Result};
use crate::uplink::engine_backlog::{EngineBacklog, Shed};
use crate::uplink::stall_timeout::StallTimeout;

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
const SILENT_ENGINE_US: u64 = 1_000_000;
/// An engine that does not answer is given one frame in so long: if it lost what it had, it needs one to speak up.
const PROBE_US: u64 = 2_000_000;
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
    /// Of what was removed or cut, what was so for an engine that is behind.
    pub shed: u64,
    /// How often it was behind for so long that it was given less than was said.
    pub slow: u64,
    /// How often it did not answer for so long that audio was withheld from it.
    pub holds: u64,
    /// Samples of the opening that were replaced by silence.
    pub gated: u64,
    /// Comfort noise in place of missing audio.
    pub inserted: u64,
    /// Taken out of pauses again.
    pub removed_in_pauses: u64,
    /// Taken out of speech again by making it faster.
    pub removed_in_speech: u64,
    /// Cut, as it was too old, or would have been when the engine got to it.
    pub cut: u64,
    /// How often the phone stalled.
    pub stalls: u64,
    /// The longest of those, from when the audio was due.
    pub longest_stall_us: u64,
    /// How late the phone's audio usually is at worst, against its earliest.
    pub relative_delay_us: u64,
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
    /// It has answered: the newest go out at once, and everything from then on.
    Answered { at_us: u64 },
}

/// Phone audio in, the model's input out; see the module.
#[derive(Debug)]
pub struct Intake {
    rate_hz: u32,
    config: IntakeConfig,
    state: State,
    queue: SyncBuffer,
    noise: ComfortNoise,
    relative_delay: RelativeDelay,
    stall_timeout: StallTimeout,
    drift: Drift,
    arrivals: WindowedRange,
    opened_us: u64,
    /// Whether the present engine has ever said something.
    has_answered: bool,
    /// Since when it owes an answer: it was given something, and has said nothing since. A phone whose chunks are
    /// seconds long gives it nothing to answer for as long.
    unanswered_since_us: Option<u64>,
    engine_backlog: EngineBacklog,
    /// How much of what was said engines will never hear, for their own sake.
    shed: u64,
    /// It may have put what waits off the grid.
    may_be_off_grid: bool,
    /// How long the newest audio had waited when the engine opened.
    opened_late_us: i64,
    /// How much audio that was.
    opened_with: usize,
    arrived_us: Option<u64>,
    /// Samples that the present engine got, or that were shed for it.
    position: u64,
    /// Of them, what it got.
    got: u64,
    /// Noise put in and not taken out again.
    to_remove: usize,
    chunk: usize,
    gate_left: usize,
    seam: Vec<f32>,
    /// The last of the caller that the present engine got, and whether comfort noise came after it.
    past: Vec<f32>,
    in_noise: bool,
    vad: Vad,
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
            queue: SyncBuffer::new(rate_hz)?,
            noise: ComfortNoise::new(config.seed),
            relative_delay: RelativeDelay::new(true),
            stall_timeout: StallTimeout::default(),
            drift: Drift::new(),
            arrivals: WindowedRange::default(),
            opened_us: 0,
            has_answered: false,
            unanswered_since_us: None,
            engine_backlog: EngineBacklog::new(rate_hz, (rate_hz / 1000 * config.max_backlog_ms) as usize),
            shed: 0,
            may_be_off_grid: false,
            opened_late_us: 0,
            opened_with: 0,
            arrived_us: None,
            position: 0,
            got: 0,
            to_remove: 0,
            chunk: 0,
            gate_left: (rate_hz / 1000 * config.gate_ms) as usize,
            seam: Vec::new(),
            past: Vec::new(),
            in_noise: false,
            vad: Vad::new(rate_hz),
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
        let begin = out.len();
        self.stats.received += pcm.len() as u64;
        self.chunk = pcm.len();
        self.arrived_us = Some(now_us);
        self.enqueue(pcm, now_us);
        let position_us = self.us(self.stats.received as usize);
        self.drift.observe(position_us, now_us);
        self.arrivals.observe(now_us as i64 - position_us, now_us);
        self.mind_engine(now_us, out);
        if let State::Steady | State::Stalled { .. } | State::Behind { .. } = self.state {
            self.learn(now_us);
        }
        match self.state {
            State::Closed | State::Held { .. } => self.keep_newest(),
            State::Answered { .. } => {}
            State::Steady => self.go_on(now_us, out),
            State::Stalled { due_us } => {
                self.stats.longest_stall_us = self.stats.longest_stall_us.max(now_us.saturating_sub(due_us));
                self.state = State::Behind {
                    since_us: now_us,
                    on_time_since_us: now_us,
                };
                self.catch_up(now_us, out);
            }
            State::Behind { .. } => self.catch_up(now_us, out),
        }
        self.note_fed(out.len() - begin, now_us);
    }

    /// The engine is ready: the newest 80 ms go out, and from now on everything.
    pub fn open(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.has_answered = false;
        self.unanswered_since_us = None;
        self.engine_backlog.begin();
        self.past.clear();
        self.in_noise = false;
        self.resume(now_us, out);
    }

    /// The engine said so many samples: it has what it was sent before.
    pub fn answered(&mut self, samples: usize, now_us: u64) {
        self.has_answered = true;
        self.unanswered_since_us = None;
        self.engine_backlog.answered(samples, now_us);
        if let State::Held { .. } = self.state {
            self.state = State::Answered { at_us: now_us };
        }
    }

    /// How much of the caller's time engines were not given, as they did not answer or were behind.
    #[must_use]
    pub fn not_given_us(&self) -> i64 {
        self.us((self.stats.withheld + self.shed) as usize)
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
        self.mind_engine(now_us, out);
        if let State::Held { .. } | State::Closed = self.state {
            return;
        }
        if let State::Steady | State::Behind { .. } = self.state {
            if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
                return;
            }
            self.stats.stalls += 1;
            self.noise.follow(&self.queue.background);
            self.state = State::Stalled {
                due_us: self.next_chunk_us(self.relative_delay.least_offset_us()),
            };
        }
        let due = self.due(now_us);
        let begin = out.len();
        let real = due.min(self.queue.len());
        self.emit(real, out);
        let shed = match self.engine_backlog.to_shed() {
            Shed::Nothing => 0,
            Shed::AtMost(most) => most.min(due - real) / self.samples(GRID_MS) * self.samples(GRID_MS),
            Shed::Everything => (due - real) / self.samples(GRID_MS) * self.samples(GRID_MS),
        };
        // What comes late of it is as late as if noise had gone out in its place.
        self.to_remove += shed;
        self.note_shed(shed, now_us);
        self.insert_noise(due - real - shed, out);
        if shed > 0 && shed == due {
            self.unanswered_since_us = None; // what it has may be less than a frame
        }
        self.note_fed(out.len() - begin, now_us);
    }

    /// When [`Intake::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        match self.state {
            State::Closed | State::Held { .. } => None,
            State::Answered { at_us } => Some(at_us),
            State::Steady | State::Behind { .. } if self.arrived_us.is_none() => {
                Some(self.opened_us + FIRST_AUDIO_US)
            }
            State::Steady | State::Behind { .. } => {
                Some(self.next_chunk_us(self.relative_delay.least_offset_us() + self.wait_us()))
            }
            State::Stalled { .. } => {
                let step = self
                    .chunk
                    .clamp(self.samples(GRID_MS), self.samples(STALL_STEP_MS));
                Some(self.at_us(
                    self.position as usize + step,
                    self.relative_delay.least_offset_us(),
                ))
            }
        }
    }

    /// How loud the caller speaks, RMS; 0 while nothing but the line's background is heard.
    #[must_use]
    pub fn voice_level(&self) -> f32 {
        self.vad.speech_level()
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
    pub fn return_jitter_us(&self) -> u64 {
        self.arrivals.range_us(self.heard_us)
    }

    /// How long the engine has owed an answer; 0 if it owes none.
    #[must_use]
    pub fn unanswered_us(&self, now_us: u64) -> u64 {
        self.unanswered_since_us
            .map_or(0, |since_us| now_us.saturating_sub(since_us))
    }

    /// Samples that the phone has sent.
    #[must_use]
    pub fn received_samples(&self) -> u64 {
        self.stats.received
    }

    /// Samples that engines got.
    #[must_use]
    pub fn emitted_samples(&self) -> u64 {
        self.stats.emitted
    }

    /// How often the phone stalled.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stats.stalls
    }

    /// How often audio was held back from an engine that did not answer.
    #[must_use]
    pub fn holds(&self) -> u64 {
        self.stats.holds
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> IntakeStats {
        IntakeStats {
            buffered: self.queue.len() as u64,
            shed: self.shed,
            relative_delay_us: self.relative_delay.spread_us().max(0) as u64,
            wait_us: self.wait_us() as u64,
            delay_us: self.us(self.queue.len()) as u64,
            chunk_us: self.us(self.chunk) as u64,
            drift_ppm: self.drift.ppm(),
            slow: self.engine_backlog.times(),
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
        self.vad.observe(heard, self.queue.background.floor());
    }

    /// The engine was given so much, and owes an answer from now on if it answers at all.
    fn note_fed(&mut self, samples: usize, now_us: u64) {
        if samples > 0 && self.has_answered {
            self.unanswered_since_us.get_or_insert(now_us);
        }
    }

    /// Holds audio back from an engine that does not answer, and lets it go when it does.
    fn mind_engine(&mut self, now_us: u64, out: &mut Vec<f32>) {
        match self.state {
            State::Closed => {}
            State::Answered { .. } => {
                self.engine_backlog.resume(now_us);
                self.resume(now_us, out);
            }
            State::Held { probe_us } if now_us >= probe_us => {
                self.engine_backlog.resume(now_us);
                self.resume(now_us, out);
                self.state = State::Held {
                    probe_us: now_us + PROBE_US,
                };
            }
            State::Held { .. } => {}
            State::Steady | State::Stalled { .. } | State::Behind { .. } => {
                let silent_for_us = SILENT_ENGINE_US.max(u64::from(self.config.max_backlog_ms) * 1000);
                if self
                    .unanswered_since_us
                    .is_some_and(|since_us| now_us > since_us + silent_for_us)
                {
                    self.stats.holds += 1;
                    self.state = State::Held {
                        probe_us: now_us + PROBE_US,
                    };
                }
            }
        }
    }

    /// What was said goes on, all of it or what an engine can do that is behind.
    fn go_on(&mut self, now_us: u64, out: &mut Vec<f32>) {
        let grid = self.samples(GRID_MS);
        match self.engine_backlog.to_shed() {
            Shed::Nothing => {
                if std::mem::take(&mut self.may_be_off_grid) {
                    self.align(now_us);
                }
                self.emit(self.queue.len(), out);
            }
            // In less there is neither a pause nor room for a period of a voice.
            Shed::AtMost(_) if self.queue.len() < self.samples(FRAME_MS) => {}
            Shed::AtMost(most) => {
                let change = self.queue.shorten(most.min(self.queue.len()));
                self.stats.removed_in_pauses += change.in_pauses as u64;
                self.stats.removed_in_speech += change.in_speech as u64;
                self.note_shed(change.total(), now_us);
                self.emit(self.queue.len() / grid * grid, out);
            }
            Shed::Everything => {
                let cut = self.queue.cut(self.queue.len() / grid * grid);
                self.stats.cut += cut as u64;
                self.note_shed(cut, now_us);
            }
        }
    }

    /// Cuts so much that what goes out is whole 20 ms again: off the grid, each step of the model would wait for one
    /// more chunk for the rest of the call.
    fn align(&mut self, now_us: u64) {
        let grid = self.samples(GRID_MS);
        if !self.chunk.is_multiple_of(grid) {
            return;
        }
        let cut = self.queue.cut((self.got as usize + self.queue.len()) % grid);
        self.stats.cut += cut as u64;
        if self.to_remove == 0 {
            self.note_shed(cut, now_us);
        }
    }

    /// So much of what was said will not be heard by an engine that is behind.
    fn note_shed(&mut self, samples: usize, now_us: u64) {
        if samples == 0 {
            return;
        }
        self.may_be_off_grid = true;
        self.position += samples as u64;
        self.shed += samples as u64;
        self.engine_backlog.was_shed(samples, now_us);
    }

    /// The newest 80 ms go out, in whole 20 ms, and the clock begins anew with them.
    fn resume(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.goes_on_like();
        self.queue.fade_in_from(&self.seam);
        self.keep_newest();
        self.drop_oldest(self.queue.len() % self.samples(GRID_MS));
        self.position = 0;
        self.got = 0;
        self.to_remove = 0;
        self.opened_us = now_us;
        self.relative_delay.reset();
        self.may_be_off_grid = false;
        self.state = State::Steady;
        let arrived_us = self.arrived_us.unwrap_or(now_us);
        self.opened_late_us = now_us.saturating_sub(arrived_us) as i64;
        self.opened_with = self.queue.len();
        self.emit(self.queue.len(), out);
        self.relative_delay
            .observe(self.us(self.position as usize), arrived_us);
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
        let position_us = self.us(self.position as usize + self.queue.len() - self.to_remove);
        self.relative_delay.observe(position_us, now_us);
        let late_us = now_us as i64 - position_us - self.relative_delay.least_offset_us();
        self.stall_timeout.observe(late_us, now_us);
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
        let grid = self.samples(GRID_MS);
        let surplus = self.surplus(now_us);
        // The last of it may wait for a pause, but not for ever: some callers make none.
        if surplus > 0 && self.to_remove > grid {
            on_time_since_us = now_us;
        }
        if surplus > 0 {
            let change = self.queue.shorten(surplus);
            self.stats.removed_in_pauses += change.in_pauses as u64;
            self.stats.removed_in_speech += change.in_speech as u64;
            let left_us = CATCH_UP_US.saturating_sub(now_us.saturating_sub(since_us));
            let most_us = u64::from(self.config.max_backlog_ms) * 1000 * left_us / CATCH_UP_US;
            // Below a frame a pause will come before anybody notices; above it, time is up.
            let most = (most_us as usize * self.rate_hz as usize / 1_000_000).max(grid);
            let cut = self.queue.cut((surplus - change.total()).saturating_sub(most));
            self.stats.cut += cut as u64;
            self.to_remove -= change.total() + cut;
        }
        if self.to_remove == 0 || now_us.saturating_sub(on_time_since_us) > FORGIVE_US {
            let cut = self.queue.cut(self.surplus(now_us));
            self.stats.cut += cut as u64;
            self.to_remove -= cut;
            self.align(now_us);
            self.to_remove = 0;
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
            .max(self.queue.len().saturating_sub(self.to_remove) / grid * grid);
        self.emit(due.min(self.queue.len()), out);
    }

    /// How much of what waits is too much: ahead of the clock, and put in by us.
    fn surplus(&self, now_us: u64) -> usize {
        let end_us = self.us(self.position as usize + self.queue.len());
        let ahead_us = end_us + self.relative_delay.least_offset_us() - now_us as i64;
        let ahead = ahead_us.max(0) as u64 * u64::from(self.rate_hz) / 1_000_000;
        (ahead as usize).min(self.to_remove).min(self.queue.len())
    }

    /// What the model should have got by now and has not, in whole 20 ms.
    fn due(&self, now_us: u64) -> usize {
        let grid_us = i64::from(GRID_MS) * 1000;
        let due_us = now_us as i64 - self.relative_delay.least_offset_us() - self.us(self.position as usize);
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
        self.got += taken as u64;
        self.engine_backlog.given(taken);
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
        self.queue.fade_in_from(&self.seam);
        self.position += samples as u64;
        self.got += samples as u64;
        self.engine_backlog.given(samples);
        self.to_remove += samples;
        self.stats.emitted += samples as u64;
        self.stats.inserted += samples as u64;
    }

    /// How late the phone must be to be called stalled.
    fn wait_us(&self) -> i64 {
        let known = self.heard_us > self.opened_us + KNOWN_AFTER_US;
        let spread_us = known.then(|| self.relative_delay.spread_us());
        self.stall_timeout.timeout_us(spread_us, self.heard_us)
    }

    /// When the model shall have the next chunk if the phone is late by `offset_us`.
    fn next_chunk_us(&self, offset_us: i64) -> u64 {
        // What waits for an engine that is behind is here already; what waits after a stall is not missed by the model yet.
        let waits = match self.state {
            State::Steady => self.queue.len(),
            _ => 0,
        };
        self.at_us(self.position as usize + waits + self.chunk, offset_us)
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
