//! A caller who speaks is told from a line that is merely loud: voice activity and barge-in together, over real
//! speech, on lines that echo the agent's voice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use pxbridge_core::downlink::playout::{Playout, PlayoutConfig, PlayoutProfile, Step};
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::{Intake, IntakeConfig};

const RATE_HZ: usize = 8000;
const SAMPLE_US: u64 = 1_000_000 / RATE_HZ as u64;
const FRAME: usize = 640;
const FRAME_US: u64 = 80_000;
const CHUNK: usize = 800;
/// The echo of the agent's voice comes back after so many samples.
const ECHO_AFTER: usize = 1200;
/// The engine's answer time.
const ANSWER_US: u64 = 100_000;

fn speech() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/speech_8k.wav");
    fs::read(path).unwrap()[44..]
        .chunks_exact(2)
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0)
        .collect()
}

/// Where the loudest stretch of this length begins: a caller who interrupts says that.
fn loudest(speech: &[f32], length: usize) -> usize {
    let energy = |from: usize| speech[from..from + length].iter().map(|s| s * s).sum::<f32>();
    (0..speech.len() - length)
        .step_by(FRAME)
        .max_by(|&a, &b| energy(a).total_cmp(&energy(b)))
        .unwrap()
}

fn gain(db: f32) -> f32 {
    10f32.powf(db / 20.0)
}

/// White noise of RMS 1, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 12f32.sqrt()
    }
}

/// What a caller's line carries besides the caller's voice.
#[derive(Clone, Copy)]
struct Line {
    noise_db: f32,
    echo_db: f32,
    /// A loud noise: when it begins, how long it is, and its level.
    cough: Option<(f32, f32, f32)>,
}

const QUIET: Line = Line {
    noise_db: -60.0,
    echo_db: -90.0,
    cough: None,
};

/// An agent, and the network between it and the caller.
struct Agent {
    profile: PlayoutProfile,
    /// Nothing comes from the engine between these times, in seconds.
    stall: (f32, f32),
    jitter_us: u64,
    /// The agent falls silent at this time, because the caller began to speak half a second before.
    interrupted_s: Option<f32>,
}

const STEADY: Agent = Agent {
    profile: PlayoutProfile::Standard,
    stall: (0.0, 0.0),
    jitter_us: 0,
    interrupted_s: None,
};

impl Agent {
    /// How many seconds of the agent's speech were dropped, and how often.
    fn loses(&self, line: Line, seconds: usize, seed: u64) -> (f32, u32) {
        let speech = speech();
        let sentence = loudest(&speech, 2 * RATE_HZ);
        let mut noise = Noise(seed | 1);
        let config = PlayoutConfig {
            profile: self.profile,
            ..PlayoutConfig::default()
        };
        let mut playout = Playout::new(LineRate::KHZ_8, config);
        let mut intake = Intake::new(LineRate::KHZ_8, IntakeConfig::default());
        let mut aside = Vec::new();
        intake.open(0, &mut aside);
        let mut arrivals = VecDeque::new();
        let mut latest_us = 0;
        for frame in 0..(seconds * 1_000_000) as u64 / FRAME_US {
            let mut at_us = frame * FRAME_US + ANSWER_US;
            at_us += ((noise.next() / 12f32.sqrt() + 0.5) * self.jitter_us as f32) as u64;
            let (from_us, to_us) = ((self.stall.0 * 1e6) as u64, (self.stall.1 * 1e6) as u64);
            if (from_us..to_us).contains(&at_us) {
                at_us = to_us;
            }
            latest_us = latest_us.max(at_us);
            arrivals.push_back(latest_us);
        }
        let mut frames = 0;
        let mut phone: VecDeque<f32> = VecDeque::new();
        let mut echo = VecDeque::from(vec![0.0; ECHO_AFTER]);
        let mut chunk = Vec::new();
        let (mut dropped, mut clears) = (0, 0);
        for sample in 0..seconds * RATE_HZ {
            let now_us = sample as u64 * SAMPLE_US;
            let now_s = sample as f32 / RATE_HZ as f32;
            let mut out = Vec::new();
            let mut step = Step::Send;
            if arrivals.front().is_some_and(|&at_us| at_us <= now_us) {
                arrivals.pop_front();
                let said_s = frames as f32 * FRAME as f32 / RATE_HZ as f32;
                let silent = self.interrupted_s.is_some_and(|from_s| said_s >= from_s);
                let frame: Vec<f32> = (0..FRAME)
                    .map(|i| {
                        let word = speech[(frames * FRAME + i) % speech.len()];
                        if silent { word * 0.002 } else { word }
                    })
                    .collect();
                frames += 1;
                step = playout.push(&frame, now_us, intake.voice_level(), &mut out);
            } else if playout.wake_us().is_some_and(|wake_us| wake_us <= now_us) {
                let mut silence = |samples, out: &mut Vec<f32>| out.resize(out.len() + samples, 0.0);
                step = playout.poll(now_us, &mut silence, &mut out);
            }
            if step == Step::ClearThenSend {
                clears += 1;
                dropped += phone.len();
                phone.clear();
            }
            phone.extend(out);
            let heard = phone.pop_front().unwrap_or(0.0);
            echo.push_back(heard * gain(line.echo_db));
            let mut from_phone = echo.pop_front().unwrap() + noise.next() * gain(line.noise_db);
            if let Some((from_s, length_s, db)) = line.cough
                && (from_s..from_s + length_s).contains(&now_s)
            {
                from_phone += noise.next() * gain(db);
            }
            if let Some(from_s) = self.interrupted_s
                && now_s >= from_s - 0.5
            {
                let spoken = ((now_s - from_s + 0.5) * RATE_HZ as f32) as usize;
                from_phone += speech[(sentence + spoken) % speech.len()];
            }
            chunk.push(from_phone);
            if chunk.len() == CHUNK {
                aside.clear();
                intake.push(&chunk, now_us, &mut aside);
                chunk.clear();
            }
        }
        (
            (dropped as f32 + playout.stats().flushed as f32) / RATE_HZ as f32,
            clears,
        )
    }
}

const LOUD_LINES: [(&str, Line); 6] = [
    ("a quiet line", QUIET),
    (
        "an echo of -30 dB",
        Line {
            echo_db: -30.0,
            ..QUIET
        },
    ),
    (
        "an echo of -20 dB",
        Line {
            echo_db: -20.0,
            ..QUIET
        },
    ),
    (
        "a street of -30 dBFS",
        Line {
            noise_db: -30.0,
            ..QUIET
        },
    ),
    (
        "a street of -20 dBFS",
        Line {
            noise_db: -20.0,
            ..QUIET
        },
    ),
    (
        "a street with an echo",
        Line {
            noise_db: -32.0,
            echo_db: -20.0,
            cough: None,
        },
    ),
];

#[test]
fn a_stall_of_the_engine_costs_no_word_because_the_line_is_loud() {
    for (name, line) in LOUD_LINES {
        for call in 0..25 {
            let from_s = 10.0 + 0.2 * call as f32;
            let agent = Agent {
                stall: (from_s, from_s + 1.0),
                ..STEADY
            };
            assert_eq!(
                agent.loses(line, 20, 7 + call),
                (0.0, 0),
                "{name}, a stall at {from_s} s"
            );
        }
    }
}

#[test]
fn jitter_of_the_engine_costs_no_word_because_the_line_is_loud() {
    for (name, line) in LOUD_LINES {
        for profile in [PlayoutProfile::Standard, PlayoutProfile::Strict] {
            for jitter_ms in [40, 80, 120] {
                let agent = Agent {
                    profile,
                    jitter_us: jitter_ms * 1000,
                    ..STEADY
                };
                let (lost_s, clears) = agent.loses(line, 60, 5);
                assert_eq!(
                    (lost_s, clears),
                    (0.0, 0),
                    "{name}, {profile:?}, jitter of {jitter_ms} ms"
                );
            }
        }
    }
}

#[test]
fn a_cough_costs_no_word() {
    for call in 0..25 {
        let from_s = 10.0 + 0.2 * call as f32;
        let line = Line {
            cough: Some((from_s + 1.0, 0.12, -15.0)),
            ..QUIET
        };
        let agent = Agent {
            stall: (from_s, from_s + 1.0),
            ..STEADY
        };
        assert_eq!(agent.loses(line, 20, 3 + call), (0.0, 0), "a cough at {from_s} s");
    }
}

#[test]
fn a_caller_who_interrupts_the_agent_is_told_from_the_line() {
    for (name, line) in LOUD_LINES {
        let mut dropped = 0;
        for call in 0..10 {
            let from_s = 10.0 + 0.3 * call as f32;
            // What was held back arrives at once, and the agent falls silent in it.
            let agent = Agent {
                stall: (from_s, from_s + 1.0),
                interrupted_s: Some(from_s + 0.9),
                ..STEADY
            };
            dropped += u32::from(agent.loses(line, 20, 11 + call).1 > 0);
        }
        // A caller who is no louder than the street cannot be told from it: then nothing is dropped.
        let drowned = line.noise_db > -25.0;
        assert_eq!(dropped, if drowned { 0 } else { 10 }, "{name}");
    }
}
