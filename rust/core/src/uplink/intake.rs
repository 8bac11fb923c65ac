//! The model's clock: feeds the engine in real time, whatever the phone does.
//!
//! PersonaPlex steps when it has 80 ms of the caller's audio. So this audio is its clock, and a delay that enters
//! here stays in the call until it is removed:
//! - Before the engine is ready only the newest 80 ms are kept.
//! - In steady state everything passes through as it arrives, late or not.
//! - When the phone is later than its `StallTimeout`, comfort noise takes the place of its audio, at the phone's own
//!   pace.
//! - When the missing audio arrives after all, the length of the inserted noise is removed from it. The audio waits
//!   here and is made shorter (pauses, then speech, then a cut), while the model goes on at the pace of the clock.
//! - Lost audio never arrives. Its noise stays, and nothing is removed. `RelativeDelay` estimates how much audio is
//!   still missing.
//! - An engine that is slower than the caller is given less (`EngineBacklog`): audio is made shorter, or nothing is
//!   sent for a while.
//! - An engine that stops answering is fed no more than the largest backlog that is worth hearing. Until it answers
//!   again only the newest 80 ms are kept, so that it has little to work off.
//!
//! All output is whole 20 ms, so that Opus frames and the model's steps stay in phase with the phone's chunks. The
//! wrong phase costs up to 20 ms for the rest of the call.

mod config;

use crate::dsp::drift::Drift;
use crate::dsp::noise::ComfortNoise;
use crate::dsp::relative_delay::RelativeDelay;
use crate::dsp::sync_buffer::{SyncBuffer, cross_fade};
use crate::dsp::timescale::{KNOWN_MS, die_away};
use crate::dsp::vad::Vad;
use crate::dsp::windowed_range::WindowedRange;
use crate::rate::{CATCH_UP_US, FRAME_MS, FRAME_US, LineRate, PACKET_MS};
use crate::uplink::engine_backlog::{EngineBacklog, Shed};
use crate::uplink::stall_timeout::StallTimeout;
pub use config::{IntakeConfig, IntakeStats};

/// In a stall noise goes out at least this often: the playout is used to longer beats.
const STALL_STEP_MS: u32 = 40;
/// The relative delay is believed when it has been observed for this long.
const KNOWN_AFTER_US: u64 = 2_000_000;
/// A phone that has sent nothing by then is stalled from the start.
const FIRST_AUDIO_US: u64 = 300_000;
/// An engine that has not answered for this long, or for the longest backlog if that is longer, gets no more audio.
/// Networks hesitate for less.
const SILENT_ENGINE_US: u64 = 1_000_000;
/// An engine that does not answer is given one frame in this time: if it lost what it had, it needs a frame to answer
/// to.
const PROBE_US: u64 = 2_000_000;
/// If less than a frame must still be removed, a pause is waited for this long.
const LAST_US: u64 = 1_000_000;
/// While audio is missing, smaller amounts of late audio are not certain: noise is inserted in steps of 20 ms, and
/// the least offsets before and after a gap may differ by jitter.
const DOUBT_MS: u32 = 30;
/// Noise waits for audio no longer than this: then the stall timeout is over.
const MOST_SPREAD_US: i64 = 250_000;
/// The pattern of frames against chunks of whole 20 ms repeats after this many frames.
const BEAT_FRAMES: i64 = 25;
/// Cross-fades from comfort noise, and from the opening silence, are this long.
const FADE_MS: u32 = 5;
/// The last sound of a word that breaks off is continued for this long, fading.
const DIE_AWAY_MS: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// No engine is ready: the newest 80 ms are kept.
    Closed,
    /// Everything that arrives passes through.
    Steady,
    /// The phone is late: noise replaces its audio, which was due at `due_us`. `clock_us`: see [`Intake::clock_us`].
    Stalled { due_us: u64, clock_us: i64 },
    /// Noise was inserted, and the missing audio arrives: what waits is made shorter.
    Behind { since_us: u64, last_since_us: u64 },
    /// The engine does not answer: the newest 80 ms are kept, and it is given them from time to time.
    Held { probe_us: u64 },
    /// The engine has answered again: it is given the newest at once, and everything from then on.
    Answered { at_us: u64 },
}

/// Phone audio in, the model's input out; see the module.
#[derive(Debug)]
pub struct Intake {
    rate: LineRate,
    config: IntakeConfig,
    state: State,
    queue: SyncBuffer,
    noise: ComfortNoise,
    relative_delay: RelativeDelay,
    stall_timeout: StallTimeout,
    drift: Drift,
    arrivals: WindowedRange,
    opened_us: u64,
    /// Whether the present engine has ever answered.
    has_answered: bool,
    /// Since when an answer is outstanding: the engine was given something then, and has not answered since. While a
    /// phone with chunks of seconds sends nothing, there is nothing to answer.
    unanswered_since_us: Option<u64>,
    engine_backlog: EngineBacklog,
    /// How much was shed in all.
    shed: u64,
    /// The audio that waits may not be whole 20 ms, because some was shed.
    may_be_off_grid: bool,
    /// How long the newest audio had waited when the engine was opened.
    opened_late_us: i64,
    /// How much audio the engine was opened with.
    opened_with: usize,
    arrived_us: Option<u64>,
    /// Samples that the present engine got, or that were shed for it.
    position: u64,
    /// The part of `position` that the engine got.
    given: u64,
    /// Noise in place of audio that may still arrive. If it does, as much is removed. In steady state: a rest that is
    /// too short to be certain.
    to_remove: usize,
    /// Noise in place of audio that was lost: it stays.
    replaced: usize,
    chunk: usize,
    gate_left: usize,
    scratch: Vec<f32>,
    /// The last of the caller's audio that the present engine got, and whether comfort noise came after it.
    past: Vec<f32>,
    in_noise: bool,
    vad: Vad,
    heard_us: u64,
    stats: IntakeStats,
}

impl Intake {
    /// An intake whose engine is not ready.
    #[must_use]
    pub fn new(rate: LineRate, config: IntakeConfig) -> Self {
        Self {
            rate,
            state: State::Closed,
            queue: SyncBuffer::new(rate),
            noise: ComfortNoise::new(config.seed),
            relative_delay: RelativeDelay::new(true),
            stall_timeout: StallTimeout::default(),
            drift: Drift::new(),
            arrivals: WindowedRange::default(),
            opened_us: 0,
            has_answered: false,
            unanswered_since_us: None,
            engine_backlog: EngineBacklog::new(rate, rate.samples(config.max_backlog_ms)),
            shed: 0,
            may_be_off_grid: false,
            opened_late_us: 0,
            opened_with: 0,
            arrived_us: None,
            position: 0,
            given: 0,
            to_remove: 0,
            replaced: 0,
            chunk: 0,
            gate_left: rate.samples(config.gate_ms),
            scratch: Vec::new(),
            past: Vec::new(),
            in_noise: false,
            vad: Vad::new(rate),
            heard_us: 0,
            stats: IntakeStats::default(),
            config,
        }
    }

    /// Phone audio arrived: appends what to give the engine now (nothing while no engine is open).
    pub fn push(&mut self, pcm: &[f32], now_us: u64, out: &mut Vec<f32>) {
        if pcm.is_empty() {
            return;
        }
        let begin = out.len();
        self.stats.received += pcm.len() as u64;
        self.chunk = pcm.len();
        self.arrived_us = Some(now_us);
        self.enqueue(pcm, now_us);
        let position_us = self.rate.us(self.stats.received as usize);
        self.drift.observe(position_us, now_us);
        self.arrivals.observe(now_us as i64 - position_us, now_us);
        self.watch_engine(now_us, out);
        if let State::Steady | State::Stalled { .. } | State::Behind { .. } = self.state {
            self.observe_arrival(now_us);
        }
        match self.state {
            State::Closed | State::Held { .. } => self.keep_newest(),
            State::Answered { .. } => {}
            State::Steady => {
                self.cut_in_pause();
                self.pass_on(now_us, out);
            }
            State::Stalled { due_us, .. } => {
                self.stats.longest_stall_us = self.stats.longest_stall_us.max(now_us.saturating_sub(due_us));
                self.state = State::Behind {
                    since_us: now_us,
                    last_since_us: now_us,
                };
                self.catch_up(now_us, out);
            }
            State::Behind { .. } => self.catch_up(now_us, out),
        }
        self.note_given(out.len() - begin, now_us);
    }

    /// The engine is ready: appends the newest 80 ms. From now on it is given everything.
    pub fn open(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.has_answered = false;
        self.unanswered_since_us = None;
        self.engine_backlog.begin();
        self.past.clear();
        self.in_noise = false;
        self.resume(now_us, out);
    }

    /// The engine answered with `samples`.
    pub fn answered(&mut self, samples: usize, now_us: u64) {
        self.has_answered = true;
        self.unanswered_since_us = None;
        self.engine_backlog.answered(samples, now_us);
        if let State::Held { .. } = self.state {
            self.state = State::Answered { at_us: now_us };
        }
    }

    /// How much of the caller's time engines were not given, because they did not answer or were behind.
    #[must_use]
    pub fn not_given_us(&self) -> i64 {
        self.rate.us((self.stats.withheld + self.shed) as usize)
    }

    /// The engine is gone: only the newest audio is kept until [`Intake::open`] is called for the next engine.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.keep_newest();
    }

    /// To be called at or after [`Intake::wake_us`]: appends what to give the engine though nothing arrived.
    pub fn poll(&mut self, now_us: u64, out: &mut Vec<f32>) {
        if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
            return;
        }
        self.watch_engine(now_us, out);
        if let State::Held { .. } | State::Closed = self.state {
            return;
        }
        let mut least = 0;
        if let State::Steady | State::Behind { .. } = self.state {
            if self.wake_us().is_none_or(|wake_us| now_us < wake_us) {
                return;
            }
            self.stats.stalls += 1;
            self.relative_delay.begin_gap();
            self.noise.follow(&self.queue.background);
            self.state = State::Stalled {
                due_us: self.next_chunk_us(self.clock_us()),
                clock_us: self.clock_us(),
            };
            least = self.rate.samples(FRAME_MS); // the model steps on no less
        }
        let due = self.due_in_stall(now_us).max(least);
        let begin = out.len();
        let real = due.min(self.queue.len());
        self.emit(real, out);
        let shed = match self.engine_backlog.to_shed() {
            Shed::Nothing => 0,
            Shed::AtMost(most) => {
                most.min(due - real) / self.rate.samples(PACKET_MS) * self.rate.samples(PACKET_MS)
            }
            Shed::Everything => (due - real) / self.rate.samples(PACKET_MS) * self.rate.samples(PACKET_MS),
        };
        // If that audio still arrives, it is as late as if noise had taken its place.
        self.to_remove += shed;
        self.note_shed(shed, now_us);
        self.insert_noise(due - real - shed, out);
        if shed > 0 && shed == due {
            self.unanswered_since_us = None; // the engine may have less than a frame: nothing to answer
        }
        self.note_given(out.len() - begin, now_us);
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
                Some(self.next_chunk_us(self.clock_us() + self.wait_us()))
            }
            State::Stalled { .. } => {
                let grid = self.rate.samples(PACKET_MS);
                let step = self.chunk.clamp(grid, self.rate.samples(STALL_STEP_MS)) / grid * grid;
                // In phase with the model's frames: the last of each is never late.
                let step = step - self.given as usize % step / grid * grid;
                let lag_us = if self.queue.len() > 0 {
                    0
                } else {
                    self.noise_lag_us()
                };
                Some(self.at_us(self.position as usize + step, self.clock_us() + lag_us))
            }
        }
    }

    /// How loud the caller speaks, RMS; 0 while nothing but the line's background is heard.
    #[must_use]
    pub fn voice_level(&self) -> f32 {
        self.vad.speech_level()
    }

    /// How much later than the first frame after [`Intake::open`] the model's later frames will be complete, against
    /// real time: chunks that do not fill whole frames make a beat. Negative: the first frame is the latest, because
    /// it waited for the engine.
    #[must_use]
    pub fn beat_us(&self) -> i64 {
        let chunk_us = self.rate.us(self.chunk).max(1);
        let opening_us = self.rate.us(self.opened_with);
        // How long after the opening's newest sample the frame that ends at `end_us` is complete.
        let complete_us = |end_us: i64| (end_us - opening_us + chunk_us - 1).max(0) / chunk_us * chunk_us;
        let first_us = complete_us(FRAME_US).max(self.opened_late_us);
        let late_us = |frame: i64| complete_us((frame + 1) * FRAME_US) - frame * FRAME_US - first_us;
        (1..=BEAT_FRAMES).map(late_us).max().unwrap_or(0)
    }

    /// How much the delay of the return path, from the phone to us, has varied in the last seconds.
    #[must_use]
    pub fn return_jitter_us(&self) -> u64 {
        self.arrivals.range_us(self.heard_us)
    }

    /// How long an answer of the engine has been outstanding; 0 if none is.
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
            delay_us: self.rate.us(self.queue.len()) as u64,
            chunk_us: self.rate.us(self.chunk) as u64,
            drift_ppm: self.drift.ppm(),
            slow: self.engine_backlog.times(),
            ..self.stats
        }
    }

    /// Puts phone audio into the queue, silenced at the opening of the line, and observes it.
    fn enqueue(&mut self, pcm: &[f32], now_us: u64) {
        let gated = self.gate_left.min(pcm.len());
        self.gate_left -= gated;
        self.stats.gated += gated as u64;
        self.scratch.clear();
        self.scratch.resize(gated, 0.0);
        self.queue.push(&self.scratch);
        let heard = &pcm[gated..];
        self.queue.background.observe(heard);
        self.queue.push(heard);
        if gated > 0 {
            self.scratch.clear();
            self.scratch.resize(self.rate.samples(FADE_MS), 0.0);
            cross_fade(self.queue.newest(heard.len()), &self.scratch);
        }
        self.heard_us = now_us;
        self.vad.observe(heard, self.queue.background.floor());
    }

    /// The engine was given `samples`: from now on an answer is outstanding, if the engine has ever answered.
    fn note_given(&mut self, samples: usize, now_us: u64) {
        if samples > 0 && self.has_answered {
            self.unanswered_since_us.get_or_insert(now_us);
        }
    }

    /// Withholds audio from an engine that does not answer, until it answers again.
    fn watch_engine(&mut self, now_us: u64, out: &mut Vec<f32>) {
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

    /// Passes audio on: all of it, or less to an engine that is behind.
    fn pass_on(&mut self, now_us: u64, out: &mut Vec<f32>) {
        let grid = self.rate.samples(PACKET_MS);
        match self.engine_backlog.to_shed() {
            Shed::Nothing => {
                if std::mem::take(&mut self.may_be_off_grid) {
                    self.align(now_us);
                }
                self.emit(self.queue.len(), out);
            }
            // Less audio holds neither a pause nor a period of a low voice.
            Shed::AtMost(_) if self.queue.len() < self.rate.samples(FRAME_MS) => {}
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

    /// Cuts what waits so that the output is whole 20 ms again. Otherwise each step of the model would wait for one
    /// more chunk for the rest of the call.
    fn align(&mut self, now_us: u64) {
        let grid = self.rate.samples(PACKET_MS);
        if !self.chunk.is_multiple_of(grid) {
            return;
        }
        let cut = self.queue.cut((self.given as usize + self.queue.len()) % grid);
        self.stats.cut += cut as u64;
        let surplus = cut.min(self.to_remove - self.missing());
        self.to_remove -= surplus;
        self.note_shed(cut - surplus, now_us);
    }

    /// `samples` were shed because the engine is behind.
    fn note_shed(&mut self, samples: usize, now_us: u64) {
        if samples == 0 {
            return;
        }
        self.may_be_off_grid = true;
        self.position += samples as u64;
        self.shed += samples as u64;
        self.engine_backlog.was_shed(samples, now_us);
    }

    /// Appends the newest 80 ms, in whole 20 ms. The engine's clock starts at zero with them.
    fn resume(&mut self, now_us: u64, out: &mut Vec<f32>) {
        self.expect_continuation();
        self.queue.fade_in_from(&self.scratch);
        self.keep_newest();
        self.drop_oldest(self.queue.len() % self.rate.samples(PACKET_MS));
        self.position = 0;
        self.given = 0;
        self.to_remove = 0;
        self.replaced = 0;
        self.opened_us = now_us;
        self.relative_delay.reset();
        self.may_be_off_grid = false;
        self.state = State::Steady;
        let arrived_us = self.arrived_us.unwrap_or(now_us);
        self.opened_late_us = now_us.saturating_sub(arrived_us) as i64;
        self.opened_with = self.queue.len();
        self.emit(self.queue.len(), out);
        self.relative_delay
            .observe(self.rate.us(self.position as usize), arrived_us);
    }

    fn keep_newest(&mut self) {
        self.drop_oldest(self.queue.len().saturating_sub(self.rate.samples(FRAME_MS)));
    }

    fn drop_oldest(&mut self, samples: usize) {
        let dropped = self.queue.cut(samples) as u64;
        if let State::Held { .. } | State::Answered { .. } = self.state {
            self.stats.withheld += dropped;
        } else {
            self.stats.dropped += dropped;
        }
    }

    /// Observes how late the newest audio is, against the phone's clock. Noise that took the place of missing audio
    /// does not count as its arrival.
    fn observe_arrival(&mut self, now_us: u64) {
        let noise = self.to_remove + self.replaced;
        let position_us = self.rate.us(self.position as usize + self.queue.len() - noise);
        let arrival = self.relative_delay.observe(position_us, now_us);
        self.stall_timeout.observe(arrival.late_us, now_us);
        if arrival.lost_us > 0 {
            let lost = self.rate.samples_in_us(arrival.lost_us).min(self.to_remove);
            self.replaced += lost;
            self.to_remove -= lost;
            if self.to_remove <= self.rate.samples(DOUBT_MS) {
                self.state = State::Steady;
            }
        }
    }

    /// Audio arrived after noise went out in its place.
    fn catch_up(&mut self, now_us: u64, out: &mut Vec<f32>) {
        let State::Behind {
            since_us,
            mut last_since_us,
        } = self.state
        else {
            return;
        };
        let grid = self.rate.samples(PACKET_MS);
        let surplus = self.surplus();
        if surplus > 0 {
            let change = self.queue.shorten(surplus);
            self.stats.removed_in_pauses += change.in_pauses as u64;
            self.stats.removed_in_speech += change.in_speech as u64;
            let left_us = CATCH_UP_US.saturating_sub(now_us.saturating_sub(since_us));
            let most_us = u64::from(self.config.max_backlog_ms) * 1000 * left_us / CATCH_UP_US;
            // Less than a frame can wait for a pause. More is cut as the time runs out.
            let most = self.rate.samples_in_us(most_us as i64).max(grid);
            let cut = self.queue.cut((surplus - change.total()).saturating_sub(most));
            self.stats.cut += cut as u64;
            self.to_remove -= change.total() + cut;
        }
        // The last of it may wait for a pause, but not for long: some callers make none.
        if self.came() > grid {
            last_since_us = now_us;
        }
        let is_over = self.missing() == 0 && now_us.saturating_sub(last_since_us) > LAST_US;
        if self.to_remove == 0 || is_over {
            let cut = self.queue.cut(self.surplus());
            self.stats.cut += cut as u64;
            self.to_remove -= cut;
            self.align(now_us);
            self.state = State::Steady;
            self.emit(self.queue.len(), out);
            return;
        }
        self.state = State::Behind {
            since_us,
            last_since_us,
        };
        if self.came() == 0 {
            self.align(now_us);
            self.cut_in_pause();
            self.pass_on(now_us, out);
            return;
        }
        let due = self
            .due(now_us, self.clock_us())
            .max((self.queue.len() - self.surplus()) / grid * grid);
        self.emit(due.min(self.queue.len()), out);
    }

    /// How much of the audio behind inserted noise is still missing.
    fn missing(&self) -> usize {
        let missing = self.rate.samples_in_us(self.relative_delay.missing_us());
        missing.min(self.to_remove)
    }

    /// How much of the audio behind inserted noise has come after all, as far as is certain.
    fn came(&self) -> usize {
        let missing = self.missing();
        let came = self.to_remove - missing;
        let is_doubtful = missing > 0 && came <= self.rate.samples(DOUBT_MS);
        if is_doubtful || self.state == State::Steady {
            0
        } else {
            came
        }
    }

    /// How much of what waits came after noise had taken its place.
    fn surplus(&self) -> usize {
        self.came().min(self.queue.len())
    }

    /// Cuts 20 ms that are probably too much. In a pause nothing is lost by that.
    fn cut_in_pause(&mut self) {
        let grid = self.rate.samples(PACKET_MS);
        if self.to_remove - self.missing() >= grid && self.queue.is_pause() {
            let cut = self.queue.cut(grid);
            self.stats.removed_in_pauses += cut as u64;
            self.to_remove -= cut;
        }
    }

    /// The wall clock: when a position is due at the model, less that position. It does not advance for missing audio
    /// that was not replaced by noise.
    fn clock_us(&self) -> i64 {
        if let State::Stalled { clock_us, .. } = self.state {
            return clock_us;
        }
        let stays = self.replaced + self.to_remove - self.came();
        self.relative_delay.least_since_gap_us() - self.rate.us(stays)
    }

    /// How many samples the model should have been given by now and was not, in whole 20 ms, if positions are due at
    /// `offset_us`.
    fn due(&self, now_us: u64, offset_us: i64) -> usize {
        let grid_us = i64::from(PACKET_MS) * 1000;
        let due_us = now_us as i64 - offset_us - self.rate.us(self.position as usize);
        // Rounded, so that a chunk that is a moment early does not count as one step too few.
        ((due_us + grid_us / 2).max(0) / grid_us) as usize * self.rate.samples(PACKET_MS)
    }

    /// The same while the phone is stalled: the samples that wait, and noise.
    fn due_in_stall(&self, now_us: u64) -> usize {
        let due = self.due(now_us, self.clock_us());
        if due <= self.queue.len() {
            return due;
        }
        // Not rounded: noise never stands for audio that may still be in time.
        let half_us = i64::from(PACKET_MS) * 500;
        self.due(now_us, self.clock_us() + self.noise_lag_us() + half_us)
            .max(self.queue.len().next_multiple_of(self.rate.samples(PACKET_MS)))
    }

    /// How far noise is behind the clock. Its first step replaces the beginning of a chunk. A chunk arrives a chunk's
    /// length after its beginning, or as late as chunks frequently are.
    fn noise_lag_us(&self) -> i64 {
        let chunk_us = self
            .rate
            .us(self.chunk.saturating_sub(self.rate.samples(PACKET_MS)));
        chunk_us + self.relative_delay.spread_us().clamp(0, MOST_SPREAD_US)
    }

    fn emit(&mut self, samples: usize, out: &mut Vec<f32>) {
        let at = out.len();
        let taken = self.queue.take(samples, out);
        if taken > 0 {
            let known = self.rate.samples(KNOWN_MS);
            self.past
                .extend_from_slice(&out[at + taken.saturating_sub(known)..]);
            self.past.drain(..self.past.len().saturating_sub(known));
            self.in_noise = false;
        }
        self.position += taken as u64;
        self.given += taken as u64;
        self.engine_backlog.given(taken);
        self.stats.emitted += taken as u64;
    }

    /// Puts into `scratch` the expected continuation of what the engine got last.
    fn expect_continuation(&mut self) {
        let fade = self.rate.samples(FADE_MS);
        self.scratch.clear();
        if self.in_noise {
            self.noise.clone().fill(fade, &mut self.scratch);
        } else {
            die_away(&self.past, self.rate, fade, &mut self.scratch);
        }
    }

    fn insert_noise(&mut self, samples: usize, out: &mut Vec<f32>) {
        if samples == 0 {
            return;
        }
        let at = out.len();
        self.noise.fill(samples, out);
        if !self.in_noise {
            self.scratch.clear();
            let fade = self.rate.samples(DIE_AWAY_MS).min(samples);
            die_away(&self.past, self.rate, fade, &mut self.scratch);
            for (sample, dying) in out[at..].iter_mut().zip(&self.scratch) {
                *sample += dying;
            }
        }
        self.in_noise = true;
        self.expect_continuation();
        self.queue.fade_in_from(&self.scratch);
        self.position += samples as u64;
        self.given += samples as u64;
        self.engine_backlog.given(samples);
        self.to_remove += samples;
        self.stats.emitted += samples as u64;
        self.stats.inserted += samples as u64;
    }

    /// How late the phone may be before it counts as stalled.
    fn wait_us(&self) -> i64 {
        let known = self.heard_us > self.opened_us + KNOWN_AFTER_US;
        let spread_us = known.then(|| self.relative_delay.spread_us());
        self.stall_timeout.timeout_us(spread_us, self.heard_us)
    }

    /// When the next chunk is due at the model if the phone's offset is `offset_us`.
    fn next_chunk_us(&self, offset_us: i64) -> u64 {
        // In steady state the audio that waits is for an engine that is behind, and has arrived. After a stall it is
        // not due yet.
        let waits = match self.state {
            State::Steady => self.queue.len(),
            _ => 0,
        };
        self.at_us(self.position as usize + waits + self.chunk, offset_us)
    }

    fn at_us(&self, position: usize, offset_us: i64) -> u64 {
        (self.rate.us(position) + offset_us).max(0) as u64
    }
}
