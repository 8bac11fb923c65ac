//! A whole call in simulated time: phone, networks, engine and the phone's player around a [`Line`].
//!
//! The line is the object that ships, and all that reaches it are messages, bytes and times.
//!
//! Delay is found by accounting, which no splice can fool: after each event the counters say which input sample
//! the end of the output corresponds to, and interpolation between those points leads from each packet played back
//! to when its first sample was spoken. Where the output advances and the input does not, it was made up here
//! (noise, concealment); that is a gap in the agent's sound and has no delay.

mod heard;
mod network;
mod wires;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use pxbridge_core::carrier::{Carrier, Messages};
use pxbridge_core::downlink::playout::{PlayoutConfig, PlayoutStats};
use pxbridge_core::line::{Line, LineOutput};
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::{IntakeConfig, IntakeStats};

pub use heard::Heard;
use network::Wire;
pub use network::{Leg, Random};
use wires::Engine;
pub use wires::Wires;

pub const MS: u64 = 1000;
pub const S: u64 = 1_000_000;
/// What phones send: mostly 100 ms, and the 20 of some lines.
pub const CHUNKS_MS: [u64; 2] = [100, 20];
const RATE_HZ: u32 = 8000;
const PACKET: usize = 160;
const FRAME: usize = 640;

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
    /// In between, the phone's media is lost: its chunks go on, and none is sent.
    pub lost: Vec<(u64, u64)>,
    /// In between, the phone holds: it sends nothing, and begins a new chunk at the end.
    pub held: Vec<(u64, u64)>,
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
    /// What phone and engine speak.
    pub wires: Wires,
    /// Pongs are withheld from the line until the agent is heard.
    pub pongs_withheld: bool,
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
            lost: Vec::new(),
            held: Vec::new(),
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
            wires: Wires::default(),
            pongs_withheld: false,
        }
    }
}

enum Event {
    Captured,
    ToLine(usize),
    Open,
    ToEngine(Vec<u8>),
    Stepped,
    FromEngine(Vec<u8>),
    ToPhone {
        messages: Messages,
        /// Where in what was sent of the agent its sound begins; `None`: it is no agent's.
        position: Option<u64>,
    },
    Played(String),
    Echo(String),
    Pinged(u64),
    Pong(u64),
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
    /// Of the agent's sound, beginning at so many samples sent.
    Packet(u64),
    Silence,
    Mark(String),
}

struct Simulation {
    call: Call,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: std::collections::HashMap<u64, Event>,
    sequence: u64,
    wires: [Wire; 4],
    line: Line,
    /// What the phone reads and writes its messages with.
    phone: Carrier,
    engine: Engine,
    voice: Vec<f32>,
    /// Media time at the phone's end of the chunk that it records, on its clock.
    chunk_end_us: u64,
    /// Media time at the beginning of each chunk that was sent.
    sent_chunks_us: Vec<u64>,
    stepping: bool,
    player: VecDeque<Queued>,
    intake_map: Map,
    not_given: u64,
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
    let mut random = Random::new(77);
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
    simulation.heard.intake = simulation.line.intake_stats();
    simulation.heard.playout = simulation.line.playout_stats();
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
        let line = Line::new(
            LineRate::KHZ_8,
            call.wires.carrier(),
            call.wires.codec(),
            call.intake.clone(),
            call.playout.clone(),
        );
        Self {
            now_us: 0,
            events: BinaryHeap::new(),
            bodies: std::collections::HashMap::new(),
            sequence: 0,
            wires,
            line,
            phone: call.wires.phone(),
            engine: call.wires.engine(),
            voice: voice(call.breathless),
            chunk_end_us: 0,
            sent_chunks_us: Vec::new(),
            stepping: false,
            player: VecDeque::new(),
            intake_map: Map::default(),
            not_given: 0,
            playout_map: Map::default(),
            gap_since_us: None,
            heard: Heard {
                delays: Vec::new(),
                holes: Vec::new(),
                gaps: Vec::new(),
                queued: Vec::new(),
                first_us: 0,
                most_waiting: 0,
                clears: 0,
                wakes: 0,
                bad_samples: 0,
                taken_out: Vec::new(),
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
        self.record_chunk(0);
        self.at(self.call.prompts_us, Event::Open);
        self.at(self.call.tick_phase_us, Event::Tick(0));
        self.does(Line::poll);
        while let Some(&Reverse((at_us, sequence))) = self.events.peek() {
            if let Some(wake_us) = self
                .line
                .wake_us()
                .map(|wake_us| wake_us.max(self.now_us))
                .filter(|&wake_us| wake_us < at_us)
            {
                let stuck = wake_us == self.now_us && self.heard.wakes > 50 * (self.now_us / MS + 10);
                assert!(!stuck, "awake for ever at {wake_us}");
                self.now_us = wake_us;
                self.heard.wakes += 1;
                self.does(Line::poll);
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

    /// The phone records a chunk from then on, on its clock.
    fn record_chunk(&mut self, from_us: u64) {
        self.chunk_end_us = from_us + self.call.chunk_ms * MS;
        let done_us = scaled(self.chunk_end_us, self.call.drift_ppm);
        self.at(done_us, Event::Captured);
    }

    /// Samples of the phone's chunks.
    fn chunk(&self) -> usize {
        (self.call.chunk_ms * u64::from(RATE_HZ) / 1000) as usize
    }

    fn handle(&mut self, event: Event) {
        let now_us = self.now_us;
        match event {
            Event::Captured => {
                let (from_us, end_us) = (self.chunk_end_us - self.call.chunk_ms * MS, self.chunk_end_us);
                let ends_in = |times: &&(u64, u64)| (times.0..times.1).contains(&end_us);
                if let Some(&(_, begins_us)) = self.call.held.iter().find(ends_in) {
                    self.record_chunk(begins_us);
                    return;
                }
                if !self.call.lost.iter().any(|times| ends_in(&times)) {
                    self.sent_chunks_us.push(from_us);
                    let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                    self.at(arrives_us, Event::ToLine(self.chunk()));
                }
                self.record_chunk(end_us);
            }
            Event::ToLine(samples) => {
                let from = self.line.intake_stats().received as usize % self.voice.len();
                let pcm: Vec<f32> = (from..from + samples)
                    .map(|i| self.voice[i % self.voice.len()])
                    .collect();
                let mut messages = Messages::default();
                self.phone.writer.media(&pcm, &mut messages);
                for message in messages.iter() {
                    self.does(|line, now_us| line.phone_message(message, now_us).unwrap());
                }
            }
            Event::Open => {
                let headers = self.engine.headers();
                if !headers.is_empty() {
                    self.engine_sends(headers);
                }
                self.does(|line, now_us| line.open_engine(now_us).unwrap());
            }
            Event::ToEngine(bytes) => {
                if !(self.call.deaf.0..self.call.deaf.1).contains(&now_us) {
                    let pcm = self.engine.hear(&bytes);
                    self.check(&pcm);
                }
                self.step();
            }
            Event::Stepped => {
                self.stepping = false;
                let bytes = self.engine.step();
                self.engine_sends(bytes);
                self.step();
            }
            Event::FromEngine(bytes) => self.does(|line, now_us| line.engine_audio(&bytes, now_us)),
            Event::Pinged(sent_us) => {
                let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                self.at(arrives_us, Event::Pong(sent_us));
            }
            Event::Pong(sent_us) => {
                if !self.call.pongs_withheld || self.line.first_audio_us().is_some() {
                    self.does(|line, now_us| line.pong(now_us - sent_us, now_us));
                }
            }
            Event::ToPhone { messages, position } => self.phone_gets(&messages, position),
            Event::Played(name) => {
                let arrives_us = self.wires[FROM_PHONE].arrives_us(now_us);
                self.at(arrives_us, Event::Echo(name));
            }
            Event::Echo(name) => self.does(|line, now_us| line.mark_played(&name, now_us)),
            Event::Tick(number) => {
                self.tick();
                let next_us =
                    scaled((number + 1) * 20 * MS, self.call.player_drift_ppm) + self.call.tick_phase_us;
                self.at(next_us, Event::Tick(number + 1));
            }
        }
    }

    /// Something reaches the line, and what follows goes out on the wires.
    fn does(&mut self, act: impl FnOnce(&mut Line, u64) -> &LineOutput) {
        let sent_before = self.line.playout_stats().sent;
        let output = act(&mut self.line, self.now_us);
        let to_phone = output.to_phone.clone();
        let to_engine = output.to_engine.clone();
        let ping = output.ping;
        let before = self.heard.intake;
        self.account_intake(before);
        self.account_playout();
        if !to_engine.is_empty() {
            let arrives_us = self.wires[TO_ENGINE].arrives_us(self.now_us);
            self.at(arrives_us, Event::ToEngine(to_engine));
        }
        if !to_phone.is_empty() {
            let arrives_us = self.wires[TO_PHONE].arrives_us(self.now_us);
            let is_agents = self.line.playout_stats().sent > sent_before;
            let event = Event::ToPhone {
                messages: to_phone,
                position: is_agents.then_some(sent_before),
            };
            self.at(arrives_us, event);
        }
        if ping {
            let arrives_us = self.wires[TO_PHONE].arrives_us(self.now_us);
            self.at(arrives_us, Event::Pinged(self.now_us));
        }
    }

    fn account_intake(&mut self, before: IntakeStats) {
        let stats = self.line.intake_stats();
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
        let not_given = stats.withheld + stats.shed;
        let emitted_now = stats.emitted - before.emitted;
        if not_given > std::mem::replace(&mut self.not_given, not_given) {
            self.intake_map
                .skip(stats.received - stats.buffered - emitted_now);
        }
        self.intake_map
            .note(stats.emitted, stats.received - stats.buffered.min(stats.received));
        self.heard.most_waiting = self.heard.most_waiting.max(stats.buffered as usize);
        let (pauses, speech) = (stats.removed_in_pauses, stats.removed_in_speech + stats.cut);
        if pauses + speech > before.removed_in_pauses + before.removed_in_speech + before.cut {
            self.heard.taken_out.push((self.now_us, pauses, speech));
        }
        self.heard.intake = stats;
    }

    fn account_playout(&mut self) {
        let stats = self.line.playout_stats();
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
        self.playout_map
            .note(stats.sent, stats.received - stats.buffered.min(stats.received));
        self.heard.most_waiting = self.heard.most_waiting.max(stats.buffered as usize);
    }

    fn engine_sends(&mut self, bytes: Vec<u8>) {
        let arrives_us = self.wires[FROM_ENGINE].arrives_us(self.now_us);
        self.at(arrives_us, Event::FromEngine(bytes));
    }

    fn step(&mut self) {
        if !self.stepping && self.engine.is_ready() {
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

    fn phone_gets(&mut self, messages: &Messages, mut position: Option<u64>) {
        let mut pcm = Vec::new();
        for message in messages.iter() {
            pcm.clear();
            if self.phone.reader.read(message, &mut pcm).is_some() {
                assert_eq!(pcm.len() % PACKET, 0, "only whole packets");
                self.check(&pcm);
                for _ in 0..pcm.len() / PACKET {
                    self.player
                        .push_back(position.map_or(Queued::Silence, Queued::Packet));
                    position = position.map(|position| position + PACKET as u64);
                }
            } else if let Some(name) = self.call.wires.mark(message) {
                self.player.push_back(Queued::Mark(name));
            } else {
                self.heard.clears += 1;
                self.player.clear();
            }
        }
    }

    fn queued_packets(&self) -> usize {
        let is_packet = |queued: &&Queued| !matches!(queued, Queued::Mark(_));
        self.player.iter().filter(is_packet).count()
    }

    fn check(&mut self, pcm: &[f32]) {
        self.heard.bad_samples += pcm.iter().filter(|s| !s.is_finite() || s.abs() > 1.5).count() as u64;
        for sample in pcm {
            let mixed = self.heard.fingerprint.rotate_left(5) ^ u64::from(sample.to_bits());
            self.heard.fingerprint = mixed.wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    fn tick(&mut self) {
        if self.heard.first_us > 0 {
            self.heard.queued.push((self.now_us, self.queued_packets()));
        }
        let mut played = None;
        while let Some(queued) = self.player.pop_front() {
            match queued {
                Queued::Mark(name) => {
                    self.at(self.now_us + self.call.behind_player_us, Event::Played(name));
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
        let emitted_position = engine_position.checked_sub(self.call.wires.codec_samples() as u64)?;
        let captured = self.intake_map.input(emitted_position)?;
        let (chunk, within) = (captured as usize / self.chunk(), captured % self.chunk() as u64);
        // The first sample after the last chunk is spoken when that ends.
        let from_us = match self.sent_chunks_us.get(chunk) {
            Some(from_us) => *from_us,
            None => self.sent_chunks_us.last()? + self.call.chunk_ms * MS,
        };
        Some(scaled(
            from_us + within * S / u64::from(RATE_HZ),
            self.call.drift_ppm,
        ))
    }
}
