//! A whole call in simulated time: phone, networks, engine and Exotel's player around [`Intake`] and [`Playout`].
//!
//! Delay is found by accounting, which no splice can fool: after each event the counters say which input sample
//! the end of the output corresponds to, and interpolation between those points leads from each packet played back
//! to when its first sample was spoken. Where the output advances and the input does not, it was made up here
//! (noise, concealment); that is a gap in the agent's sound and has no delay.

mod heard;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use pxbridge_core::downlink::playout::{Mark, Playout, PlayoutConfig, PlayoutStats, Step};
use pxbridge_core::uplink::intake::{Intake, IntakeConfig, IntakeStats};

pub use heard::Heard;

pub const MS: u64 = 1000;
pub const S: u64 = 1_000_000;
/// What phones send: Exotel's 100 ms, and the 20 of some lines.
pub const CHUNKS_MS: [u64; 2] = [100, 20];
const RATE_HZ: u32 = 8000;
const PACKET: usize = 160;
/// What resamplers and codecs add on both ways together.
const CODECS: usize = 128;
const FRAME: usize = 640;

/// xorshift64: the same seed, the same network.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if bound == 0 { 0 } else { (self.0 >> 11) % bound }
    }
}

/// One direction of a TCP connection: in order, late by a delay and jitter, and nothing at all during a stall.
#[derive(Clone, Debug, Default)]
pub struct Leg {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub jitter_until_us: Option<u64>,
    pub jitter_from_us: u64,
    pub stalls: Vec<(u64, u64)>,
    /// So many messages in a thousand are lost once, and come later by so much: with them, all that follow.
    pub losses: (u64, u64),
    /// From then on it takes so much longer, until then or for good.
    pub longer: (u64, u64),
    pub longer_until_us: Option<u64>,
}

impl Leg {
    pub fn stalled(stalls: &[(u64, u64)]) -> Self {
        Self {
            stalls: stalls.to_vec(),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct Wire {
    leg: Leg,
    random: Random,
    last_us: u64,
}

impl Wire {
    fn new(leg: &Leg, seed: u64) -> Self {
        Self {
            leg: leg.clone(),
            random: Random(seed | 1),
            last_us: 0,
        }
    }

    fn arrives_us(&mut self, sent_us: u64) -> u64 {
        let leg = &self.leg;
        let jittery =
            sent_us >= leg.jitter_from_us && leg.jitter_until_us.is_none_or(|until| sent_us < until);
        let jitter_us = if jittery {
            self.random.below(leg.jitter_us + 1)
        } else {
            0
        };
        let (permille, again_us) = leg.losses;
        let lost = permille > 0 && self.random.below(1000) < permille;
        let (longer_from_us, longer_us) = leg.longer;
        let longer = sent_us >= longer_from_us && leg.longer_until_us.is_none_or(|until| sent_us < until);
        let longer_us = if longer { longer_us } else { 0 };
        let mut at_us = sent_us + leg.delay_us + longer_us + jitter_us + if lost { again_us } else { 0 };
        for &(from_us, to_us) in &leg.stalls {
            if (from_us..to_us).contains(&at_us) {
                at_us = to_us;
            }
        }
        self.last_us = self.last_us.max(at_us);
        self.last_us
    }
}

/// One of the four ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Where {
    FromPhone,
    ToPhone,
    ToEngine,
    FromEngine,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub seconds: u64,
    pub chunk_ms: u64,
    pub prompts_us: u64,
    pub step_us: u64,
    /// In between, a step takes this long instead.
    pub spell: (u64, u64, u64),
    /// In between, the engine loses what comes.
    pub deaf: (u64, u64),
    pub from_phone: Leg,
    pub to_phone: Leg,
    pub to_engine: Leg,
    pub from_engine: Leg,
    /// The phone's clock is faster than ours by this.
    pub drift_ppm: i64,
    /// The player's clock; the phone's unless told otherwise.
    pub player_drift_ppm: i64,
    /// Where in the 20 ms the player ticks.
    pub tick_phase_us: u64,
    /// Behind the player it takes so long until the caller hears, and until a mark is echoed.
    pub behind_player_us: u64,
    /// The caller never pauses.
    pub breathless: bool,
    pub seed: u64,
    pub intake: IntakeConfig,
    pub playout: PlayoutConfig,
}

impl Call {
    pub fn put(&mut self, place: Where, leg: Leg) {
        match place {
            Where::FromPhone => self.from_phone = leg,
            Where::ToPhone => self.to_phone = leg,
            Where::ToEngine => self.to_engine = leg,
            Where::FromEngine => self.from_engine = leg,
        }
    }

    /// The same over ways that do not vary and never stall.
    pub fn undisturbed(&self) -> Self {
        let mut good = self.clone();
        for leg in [
            &mut good.from_phone,
            &mut good.to_phone,
            &mut good.to_engine,
            &mut good.from_engine,
        ] {
            leg.jitter_us = 0;
            leg.stalls.clear();
        }
        good
    }

    pub fn new(chunk_ms: u64, seconds: u64) -> Self {
        Self {
            seconds,
            chunk_ms,
            prompts_us: 37 * MS,
            step_us: 30 * MS,
            spell: (0, 0, 0),
            deaf: (0, 0),
            from_phone: Leg::default(),
            to_phone: Leg::default(),
            to_engine: Leg::default(),
            from_engine: Leg::default(),
            drift_ppm: 0,
            player_drift_ppm: 0,
            tick_phase_us: 11 * MS,
            behind_player_us: 0,
            breathless: false,
            seed: 1,
            intake: IntakeConfig::default(),
            playout: PlayoutConfig::default(),
        }
    }
}

enum Event {
    Captured,
    ToIntake(usize),
    Open,
    ToEngine(Vec<f32>),
    Stepped,
    ToPlayout(Vec<f32>),
    ToPlayer {
        pcm: Vec<f32>,
        clear: bool,
        mark: Option<Mark>,
        position: u64,
    },
    Played(Mark),
    Echo(Mark),
    Pinged(u64),
    Pong(u64),
    Waiting,
    Tick(u64),
}

/// Which input sample an output sample stands for.
#[derive(Default)]
struct Map(Vec<(u64, u64)>);

impl Map {
    fn note(&mut self, output: u64, input: u64) {
        // Samples put into what waits look like input that came back.
        let input = self.0.last().map_or(input, |last| input.max(last.1));
        match self.0.last_mut() {
            Some(last) if last.0 == output => last.1 = input,
            _ => self.0.push((output, input)),
        }
    }

    /// Input left out between two outputs.
    fn skip(&mut self, input: u64) {
        if let Some(&(output, _)) = self.0.last() {
            self.0.push((output, input));
        }
    }

    /// `None`: made up.
    fn input(&self, output: u64) -> Option<u64> {
        let next = self.0.partition_point(|point| point.0 <= output);
        let (a, b) = (self.0.get(next.checked_sub(1)?)?, self.0.get(next)?);
        // Half of a block made up makes it made up: the border lies somewhere inside.
        let flat = (b.1 - a.1) * 2 < b.0 - a.0;
        // The end of a block is exact; removals may lie anywhere before it.
        (!flat).then(|| b.1.saturating_sub((b.0 - output).min(b.1 - a.1)))
    }
}

enum Queued {
    Packet(u64),
    Silence,
    Mark(Mark),
}

struct Simulation {
    call: Call,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: std::collections::HashMap<u64, Event>,
    sequence: u64,
    wires: [Wire; 4],
    intake: Intake,
    playout: Playout,
    voice: Vec<f32>,
    captured: u64,
    codecs: VecDeque<f32>,
    engine_input: VecDeque<f32>,
    stepping: bool,
    player: VecDeque<Queued>,
    intake_map: Map,
    not_given_us: i64,
    playout_map: Map,
    gap_since_us: Option<u64>,
    heard: Heard,
}

const FROM_PHONE: usize = 0;
const TO_PHONE: usize = 1;
const TO_ENGINE: usize = 2;
const FROM_ENGINE: usize = 3;

/// Ten seconds of something like speech: a gliding voice in syllables and phrases, over a line's noise.
fn voice(breathless: bool) -> Vec<f32> {
    let mut random = Random(77);
    let mut phase = 0.0_f32;
    (0..80_000)
        .map(|i| {
            let t = i as f32 / RATE_HZ as f32;
            let noise = (random.below(2000) as f32 / 1000.0 - 1.0) * 0.002;
            let in_phrase = breathless || (t * 0.625).fract() < 0.72;
            phase += (110.0 + 25.0 * (t * 2.1).sin()) / RATE_HZ as f32;
            let syllable = if breathless {
                0.8
            } else {
                (0.5 - 0.5 * (t * 25.0).cos()).max(0.05)
            };
            let tone: f32 = (1..12)
                .map(|k| (phase * k as f32 * std::f32::consts::TAU).sin() / k as f32)
                .sum();
            noise + if in_phrase { 0.15 * syllable * tone } else { 0.0 }
        })
        .collect()
}

fn scaled(us: u64, ppm: i64) -> u64 {
    us.saturating_add_signed(-(us as i64 * ppm / 1_000_000))
}

/// Plays a call to its end.
pub fn play(call: &Call) -> Heard {
    let mut simulation = Simulation::new(call.clone());
    simulation.run();
    simulation.heard.intake = simulation.intake.stats();
    simulation.heard.playout = simulation.playout.stats();
    simulation.heard
}

impl Simulation {
    fn new(call: Call) -> Self {
        let legs = [
            &call.from_phone,
            &call.to_phone,
            &call.to_engine,
            &call.from_engine,
        ];
        let mut number = 0;
        let wires = legs.map(|leg| {
            number += 1;
            Wire::new(
                leg,
                call.seed
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .rotate_left(number * 13),
            )
        });
        Self {
            now_us: 0,
            events: BinaryHeap::new(),
            bodies: std::collections::HashMap::new(),
            sequence: 0,
            wires,
            intake: Intake::new(RATE_HZ, call.intake.clone()).unwrap(),
            playout: Playout::new(RATE_HZ, call.playout.clone()).unwrap(),
            voice: voice(call.breathless),
            captured: 0,
            codecs: std::iter::repeat_n(0.0, CODECS).collect(),
            engine_input: VecDeque::new(),
            stepping: false,
            player: VecDeque::new(),
            intake_map: Map::default(),
            not_given_us: 0,
            playout_map: Map::default(),
            gap_since_us: None,
            heard: Heard {
                delays: Vec::new(),
                holes: Vec::new(),
                gaps: Vec::new(),
                first_us: 0,
                most_waiting: 0,
                most_at_exotel: 0,
                clears: 0,
                wakes: 0,
                bad_samples: 0,
                fingerprint: 0,
                intake: IntakeStats::default(),
                playout: PlayoutStats::default(),
            },
            call,
        }
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.events.push(Reverse((at_us, self.sequence)));
        self.bodies.insert(self.sequence, event);
        self.sequence += 1;
    }

    fn run(&mut self) {
        let end_us = self.call.seconds * S;
        self.at(self.chunk_done_us(0), Event::Captured);
        self.at(self.call.prompts_us, Event::Open);
        self.at(0, Event::Waiting);
        self.at(self.call.tick_phase_us, Event::Tick(0));
        while let Some(&Reverse((at_us, sequence))) = self.events.peek() {
            let wake_us = [
                self.intake.wake_us(),
                self.playout.wake_us(),
                self.playout.ping_wake_us(),
            ]
            .into_iter()
            .flatten()
            .min();
            if let Some(wake_us) = wake_us
                .map(|wake_us| wake_us.max(self.now_us))
                .filter(|&wake_us| wake_us < at_us)
            {
                let stuck = wake_us == self.now_us && self.heard.wakes > 50 * (self.now_us / MS + 10);
                assert!(!stuck, "awake for ever at {wake_us}");
                self.now_us = wake_us;
                self.heard.wakes += 1;
                self.wake();
                continue;
            }
            if at_us > end_us {
                break;
            }
            self.now_us = at_us;
            self.events.pop();
            let event = self.bodies.remove(&sequence).unwrap();
            self.handle(event);
        }
        if let Some(since_us) = self.gap_since_us {
            self.heard.gaps.push((since_us, self.now_us - since_us));
        }
    }

    fn chunk_done_us(&self, chunk: u64) -> u64 {
        scaled((chunk + 1) * self.call.chunk_ms * MS, self.call.drift_ppm)
    }

    fn handle(&mut self, event: Event) {
        let now_us = self.now_us;
        let chunk = (self.call.chunk_ms * u64::from(RATE_HZ) / 1000) as usize;
        match event {
            Event::Captured => {
                self.captured += 1;
                let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                self.at(arrives_us, Event::ToIntake(chunk));
                self.at(self.chunk_done_us(self.captured), Event::Captured);
            }
            Event::ToIntake(samples) => {
                let from = self.intake.stats().received as usize % self.voice.len();
                let pcm: Vec<f32> = (from..from + samples)
                    .map(|i| self.voice[i % self.voice.len()])
                    .collect();
                let mut out = Vec::new();
                self.intake.push(&pcm, now_us, &mut out);
                self.feed_engine(out);
            }
            Event::Open => {
                let mut out = Vec::new();
                self.intake.open(now_us, &mut out);
                self.feed_engine(out);
            }
            Event::ToEngine(pcm) => {
                if !(self.call.deaf.0..self.call.deaf.1).contains(&now_us) {
                    self.engine_input.extend(pcm);
                }
                self.step();
            }
            Event::Stepped => {
                self.stepping = false;
                let frame: Vec<f32> = self.engine_input.drain(..FRAME).collect();
                let arrives_us = self.wires[FROM_ENGINE].arrives_us(now_us);
                self.at(arrives_us, Event::ToPlayout(frame));
                self.step();
            }
            Event::ToPlayout(pcm) => {
                let mut out = Vec::new();
                self.playout.expect_beat(self.intake.beat_us());
                self.playout.skip_to(self.intake.not_given_us());
                self.intake.answered(pcm.len(), now_us);
                let step = self
                    .playout
                    .push(&pcm, now_us, self.intake.voice_level(), &mut out);
                self.feed_phone(step, out);
                self.ping();
            }
            Event::Waiting if self.playout.stats().received == 0 => {
                self.playout.sent_aside(PACKET, now_us);
                let mark = self.playout.take_mark(now_us);
                let arrives_us = self.wires[TO_PHONE].arrives_us(now_us);
                let silence = Event::ToPlayer {
                    pcm: Vec::new(),
                    clear: false,
                    mark,
                    position: 0,
                };
                self.at(arrives_us, silence);
                self.at(now_us + S, Event::Waiting);
            }
            Event::Waiting => {}
            Event::Pinged(sent_us) => {
                let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                self.at(arrives_us, Event::Pong(sent_us));
            }
            Event::Pong(sent_us) => {
                self.playout
                    .round_trip(now_us - sent_us, self.intake.return_jitter_us(), now_us);
            }
            Event::ToPlayer {
                pcm,
                clear,
                mark,
                position,
            } => {
                if clear {
                    self.heard.clears += 1;
                    self.player.clear();
                }
                if pcm.is_empty() && !clear {
                    self.player.push_back(Queued::Silence);
                }
                for packet in 0..pcm.len() / PACKET {
                    self.player
                        .push_back(Queued::Packet(position + (packet * PACKET) as u64));
                }
                self.player.extend(mark.map(Queued::Mark));
                self.heard.most_at_exotel = self.heard.most_at_exotel.max(self.player.len());
            }
            Event::Played(mark) => {
                let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                self.at(arrives_us, Event::Echo(mark));
            }
            Event::Echo(mark) => {
                let return_jitter_us = self.intake.return_jitter_us();
                self.playout.marked(mark, return_jitter_us, now_us);
            }
            Event::Tick(number) => {
                self.tick();
                let next_us =
                    scaled((number + 1) * 20 * MS, self.call.player_drift_ppm) + self.call.tick_phase_us;
                self.at(next_us, Event::Tick(number + 1));
            }
        }
    }

    fn wake(&mut self) {
        let mut out = Vec::new();
        self.intake.poll(self.now_us, &mut out);
        self.feed_engine(out);
        let mut out = Vec::new();
        let mut conceal = |samples: usize, out: &mut Vec<f32>| out.extend(std::iter::repeat_n(0.01, samples));
        let step = self.playout.poll(self.now_us, &mut conceal, &mut out);
        self.feed_phone(step, out);
        self.ping();
    }

    fn ping(&mut self) {
        if self.playout.take_ping(self.now_us) {
            let arrives_us = self.wires[TO_PHONE].arrives_us(self.now_us);
            self.at(arrives_us, Event::Pinged(self.now_us));
        }
    }

    fn feed_engine(&mut self, out: Vec<f32>) {
        let stats = self.intake.stats();
        assert_eq!(
            stats.received + stats.inserted,
            stats.emitted
                + stats.dropped
                + stats.withheld
                + stats.removed_in_pauses
                + stats.removed_in_speech
                + stats.cut
                + stats.buffered,
            "the intake loses count: {stats:?}"
        );
        let not_given_us = self.intake.not_given_us();
        if not_given_us > std::mem::replace(&mut self.not_given_us, not_given_us) {
            self.intake_map
                .skip(stats.received - stats.buffered - out.len() as u64);
        }
        self.intake_map
            .note(stats.emitted, stats.received - stats.buffered.min(stats.received));
        self.heard.most_waiting = self.heard.most_waiting.max(stats.buffered as usize);
        if out.is_empty() {
            return;
        }
        self.check(&out);
        self.codecs.extend(&out);
        let pcm = self.codecs.drain(..out.len()).collect();
        let arrives_us = self.wires[TO_ENGINE].arrives_us(self.now_us);
        self.at(arrives_us, Event::ToEngine(pcm));
    }

    fn step(&mut self) {
        if !self.stepping && self.engine_input.len() >= FRAME {
            self.stepping = true;
            let (from_us, to_us, slower_us) = self.call.spell;
            let step_us = if (from_us..to_us).contains(&self.now_us) {
                slower_us
            } else {
                self.call.step_us
            };
            self.at(self.now_us + step_us, Event::Stepped);
        }
    }

    fn feed_phone(&mut self, step: Step, pcm: Vec<f32>) {
        let stats = self.playout.stats();
        assert_eq!(
            stats.received + stats.padded + stats.stretched + stats.concealed + stats.noise,
            stats.sent
                + stats.buffered
                + stats.removed_in_pauses
                + stats.removed_in_speech
                + stats.cut
                + stats.flushed,
            "the playout loses count: {stats:?}"
        );
        assert_eq!(pcm.len() % PACKET, 0, "only whole packets");
        self.playout_map
            .note(stats.sent, stats.received - stats.buffered.min(stats.received));
        self.heard.most_waiting = self.heard.most_waiting.max(stats.buffered as usize);
        self.check(&pcm);
        let clear = step == Step::ClearThenSend;
        if pcm.is_empty() && !clear {
            return;
        }
        let mark = self.playout.take_mark(self.now_us);
        let position = stats.sent - pcm.len() as u64;
        let arrives_us = self.wires[TO_PHONE].arrives_us(self.now_us);
        self.at(
            arrives_us,
            Event::ToPlayer {
                pcm,
                clear,
                mark,
                position,
            },
        );
    }

    fn check(&mut self, pcm: &[f32]) {
        self.heard.bad_samples += pcm.iter().filter(|s| !s.is_finite() || s.abs() > 1.5).count() as u64;
        for sample in pcm {
            let mixed = self.heard.fingerprint.rotate_left(5) ^ u64::from(sample.to_bits());
            self.heard.fingerprint = mixed.wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    fn tick(&mut self) {
        let mut played = None;
        while let Some(queued) = self.player.pop_front() {
            match queued {
                Queued::Mark(mark) => {
                    self.at(self.now_us + self.call.behind_player_us, Event::Played(mark));
                }
                Queued::Silence => break,
                Queued::Packet(position) => {
                    played = Some(position);
                    break;
                }
            }
        }
        if played.is_none() && self.heard.first_us > 0 {
            self.heard.holes.push(self.now_us);
        }
        if played.is_some() && self.heard.first_us == 0 {
            self.heard.first_us = self.now_us;
        }
        let spoken_us = played.and_then(|position| self.spoken_us(position));
        match (spoken_us, self.gap_since_us) {
            (Some(spoken_us), since) => {
                self.heard
                    .delays
                    .push((self.now_us, self.now_us.saturating_sub(spoken_us)));
                if let Some(since_us) = since {
                    self.heard.gaps.push((since_us, self.now_us - since_us));
                }
                self.gap_since_us = None;
            }
            (None, None) if self.heard.first_us > 0 && !self.is_models_own(played) => {
                self.gap_since_us = Some(self.now_us);
            }
            (None, Some(since_us)) if self.is_models_own(played) => {
                self.heard.gaps.push((since_us, self.now_us - since_us));
                self.gap_since_us = None;
            }
            _ => {}
        }
    }

    /// Whether the engine made that packet, out of whatever it was fed.
    fn is_models_own(&self, played: Option<u64>) -> bool {
        played.is_some_and(|position| self.playout_map.input(position).is_some())
    }

    fn spoken_us(&self, sent_position: u64) -> Option<u64> {
        let engine_position = self.playout_map.input(sent_position)?;
        let emitted_position = engine_position.checked_sub(CODECS as u64)?;
        let captured = self.intake_map.input(emitted_position)?;
        Some(scaled(captured * S / u64::from(RATE_HZ), self.call.drift_ppm))
    }
}
