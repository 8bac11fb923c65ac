//! A caller who interrupts the agent does not hear what was queued. Nobody else loses a word.
#![allow(clippy::unwrap_used, missing_docs)]

use pxbridge_core::downlink::playout::{Playout, PlayoutConfig, Step};
use pxbridge_core::rate::LineRate;

const RATE_HZ: usize = 8000;
const FRAME: usize = 640;
const FRAME_US: u64 = 80_000;
const SPEECH: f32 = 0.2;

/// An agent, a playout, and a phone that plays in real time what it gets.
struct Conversation {
    playout: Playout,
    now_us: u64,
    frames: usize,
    /// Samples that wait at the phone, the oldest first.
    phone: std::collections::VecDeque<f32>,
    cleared_at_us: Vec<u64>,
    heard: Vec<f32>,
}

impl Conversation {
    fn new() -> Self {
        Self {
            playout: Playout::new(LineRate::KHZ_8, PlayoutConfig::default()),
            now_us: 0,
            frames: 0,
            phone: std::collections::VecDeque::new(),
            cleared_at_us: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn pass(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while let Some(wake_us) = self.playout.wake_us().filter(|&wake_us| wake_us <= end_us) {
            self.play_until(wake_us.max(self.now_us));
            let mut out = Vec::new();
            let mut conceal =
                |samples: usize, out: &mut Vec<f32>| out.extend(std::iter::repeat_n(0.0, samples));
            let step = self.playout.poll(self.now_us, &mut conceal, &mut out);
            self.take(step, &out);
        }
        self.play_until(end_us);
    }

    fn play_until(&mut self, until_us: u64) {
        let samples = (until_us - self.now_us) as usize * RATE_HZ / 1_000_000;
        let samples = samples.min(self.phone.len());
        self.heard.extend(self.phone.drain(..samples));
        self.now_us = until_us;
    }

    fn take(&mut self, step: Step, out: &[f32]) {
        if step == Step::ClearThenSend {
            self.cleared_at_us.push(self.now_us);
            self.phone.clear();
        }
        self.phone.extend(out);
    }

    /// The agent's next frame arrives: speech, or a pause.
    fn frame(&mut self, speech: bool, caller_speaking: bool) {
        let pcm: Vec<f32> = (0..FRAME)
            .map(|i| {
                let t = (self.frames * FRAME + i) as f32 / RATE_HZ as f32;
                let wave = (t * 150.0 * std::f32::consts::TAU).sin()
                    + 0.5 * (t * 450.0 * std::f32::consts::TAU).sin();
                if speech { SPEECH * wave } else { 0.001 * wave }
            })
            .collect();
        self.frames += 1;
        let mut out = Vec::new();
        let step = self.playout.push(
            &pcm,
            self.now_us,
            if caller_speaking { SPEECH } else { 0.0 },
            &mut out,
        );
        self.take(step, &out);
    }

    /// Frames in real time.
    fn frames(&mut self, count: usize, speech: bool, caller_speaking: bool) {
        for _ in 0..count {
            self.frame(speech, caller_speaking);
            self.pass(FRAME_US);
        }
    }

    /// A conversation that has heard sentences and pauses, so that both are known.
    fn warmed_up() -> Self {
        let mut conversation = Self::new();
        for _ in 0..4 {
            conversation.frames(20, true, false);
            conversation.frames(6, false, false);
        }
        conversation
    }

    /// The network held the agent's words back, and they arrive at once.
    fn burst(&mut self, count: usize, caller_speaking: bool) {
        self.pass(count as u64 * FRAME_US);
        for _ in 0..count {
            self.frame(true, caller_speaking);
            self.pass(5_000);
        }
    }

    fn waiting_us(&self) -> u64 {
        let samples = self.phone.len() + self.playout.stats().buffered as usize;
        (samples * 1_000_000 / RATE_HZ) as u64
    }

    fn loud_waiting(&self) -> usize {
        self.phone
            .iter()
            .filter(|sample| sample.abs() > SPEECH / 4.0)
            .count()
    }
}

#[test]
fn an_agent_that_falls_silent_for_the_caller_is_cut_off() {
    let mut conversation = Conversation::warmed_up();
    conversation.burst(12, true);
    assert!(
        conversation.waiting_us() > 400_000,
        "{}",
        conversation.waiting_us()
    );
    let interrupted_us = conversation.now_us;
    conversation.frames(4, false, true);
    let cleared_us = *conversation
        .cleared_at_us
        .last()
        .expect("what waited was dropped");
    assert!(cleared_us - interrupted_us <= 3 * FRAME_US);
    assert_eq!(conversation.loud_waiting(), 0, "nothing of it is left");
    // The answer to the interruption is heard at once.
    conversation.frames(10, false, true);
    conversation.frames(5, true, false);
    assert!(
        conversation.waiting_us() <= 200_000,
        "{}",
        conversation.waiting_us()
    );
    assert_eq!(conversation.cleared_at_us.len(), 1);
}

#[test]
fn an_agent_that_pauses_by_itself_is_heard_to_the_end() {
    let mut conversation = Conversation::warmed_up();
    conversation.burst(12, false);
    conversation.frames(12, false, false);
    assert_eq!(conversation.cleared_at_us, []);
}

#[test]
fn a_caller_who_begins_to_speak_in_the_agents_pause_cuts_nothing_off() {
    let mut conversation = Conversation::warmed_up();
    conversation.burst(12, false);
    conversation.frames(3, false, false);
    conversation.frames(12, false, true);
    assert_eq!(conversation.cleared_at_us, []);
}

#[test]
fn an_agent_that_talks_on_over_the_caller_is_heard() {
    let mut conversation = Conversation::warmed_up();
    conversation.burst(12, true);
    conversation.frames(30, true, true);
    assert_eq!(conversation.cleared_at_us, []);
}

#[test]
fn a_short_gap_inside_the_agents_sentence_is_not_silence() {
    let mut conversation = Conversation::warmed_up();
    conversation.burst(12, true);
    for _ in 0..10 {
        conversation.frames(1, false, true);
        conversation.frames(2, true, true);
    }
    assert_eq!(conversation.cleared_at_us, []);
}

#[test]
fn an_interruption_with_almost_nothing_queued_needs_no_clear() {
    let mut conversation = Conversation::warmed_up();
    conversation.frames(5, true, true);
    conversation.frames(10, false, true);
    assert_eq!(conversation.cleared_at_us, []);
}

#[test]
fn catching_up_after_a_stall_cuts_nobody_off() {
    let mut conversation = Conversation::warmed_up();
    for _ in 0..5 {
        conversation.burst(12, false);
        conversation.frames(20, true, false);
        conversation.frames(6, false, false);
    }
    assert_eq!(conversation.cleared_at_us, []);
}
