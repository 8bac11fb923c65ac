//! The events of a line, and that no input breaks it.
#![allow(clippy::unwrap_used, missing_docs)]

mod inputs;

use proptest::prelude::*;
use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::TOWARDS_ENGINE;
use pxbridge_core::codec::stream::OggOpusWriter;
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::line::{Event, Line, LineOutput};
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::IntakeConfig;

const MS: u64 = 1000;
const S: u64 = 1_000_000;
const START_US: u64 = 7 * S;

/// A line, its phone and its engine, and the events that it gave.
struct Call {
    line: Line,
    phone: Carrier,
    engine: OggOpusWriter,
    now_us: u64,
    events: Vec<(u64, Event)>,
    marks: Vec<String>,
    to_engine: usize,
}

impl Call {
    fn start() -> Self {
        Self::start_at(LineRate::KHZ_8)
    }

    fn start_at(rate: LineRate) -> Self {
        let carrier = || Carrier::named("exotel", "S", rate, Encoding::Pcm16).unwrap();
        let mut call = Self {
            line: Line::new(
                rate,
                carrier(),
                Box::new(OggOpus::new(rate, 1).unwrap()),
                IntakeConfig::default(),
                PlayoutConfig::default(),
            ),
            phone: carrier(),
            engine: OggOpusWriter::new(TOWARDS_ENGINE, 5).unwrap(),
            now_us: START_US,
            events: Vec::new(),
            marks: Vec::new(),
            to_engine: 0,
        };
        call.does(Line::poll);
        call
    }

    fn does(&mut self, act: impl FnOnce(&mut Line, u64) -> &LineOutput) {
        let output = act(&mut self.line, self.now_us);
        self.to_engine += output.to_engine.len();
        self.events
            .extend(output.events.iter().map(|&event| (self.now_us, event)));
        for message in output.to_phone.iter() {
            let text = str::from_utf8(message.bytes).unwrap();
            if let Some((_, name)) = text.split_once(r#""mark":{"name":""#) {
                self.marks.push(name.trim_end_matches(r#""}}"#).to_owned());
            }
        }
    }

    fn until(&mut self, until_us: u64) {
        while let Some(wake_us) = self.line.wake_us().filter(|&wake_us| wake_us <= until_us) {
            self.now_us = wake_us.max(self.now_us);
            self.does(Line::poll);
        }
        self.now_us = until_us;
    }

    fn phone_says(&mut self, samples: usize) {
        let mut messages = Messages::default();
        self.phone.writer.media(&vec![0.1; samples], &mut messages);
        let message = messages.iter().next().unwrap();
        self.does(|line, now_us| line.phone_message(message, now_us).unwrap());
    }

    fn engine_says(&mut self) {
        let mut page = Vec::new();
        self.engine
            .write(&vec![0.1; ENGINE_HZ as usize / 1000 * 80], &mut page);
        self.does(|line, now_us| line.engine_audio(&page, now_us));
    }

    /// A phone that sends `samples` every 100 ms, and an engine that answers or does not.
    fn talks(&mut self, for_us: u64, samples: usize, engine_answers: bool) {
        let end_us = self.now_us + for_us;
        while self.now_us < end_us {
            self.until(self.now_us + 20 * MS);
            let at_ms = (self.now_us - START_US) / MS;
            if at_ms.is_multiple_of(100) {
                self.phone_says(samples);
            }
            if engine_answers && at_ms.is_multiple_of(80) {
                self.engine_says();
            }
        }
    }
}

#[test]
fn the_first_sound_of_an_agent_is_told_once_with_how_long_it_was_missed() {
    let mut call = Call::start();
    call.talks(3 * S, 800, false);
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(2 * S, 800, true);
    let [(at_us, Event::AgentHeard { after_us })] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert_eq!(Some(START_US + after_us), call.line.first_audio_us());
    assert_eq!(call.line.first_sound_us(), call.line.first_audio_us());
    assert!((3 * S..3 * S + 300 * MS).contains(&after_us), "{after_us}");
    assert!(START_US + after_us >= at_us, "heard before it was sent");
}

#[test]
fn the_first_sound_is_the_greeting_and_the_agents_first_is_told_apart() {
    let mut call = Call::start();
    call.until(START_US + 20 * MS);
    call.does(|line, now_us| line.play(&[0.1; 16_000], now_us));
    call.talks(2 * S, 800, false);
    assert_eq!(call.line.first_audio_us(), None);
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(S, 800, true);
    let (sound_us, agent_us) = (
        call.line.first_sound_us().unwrap(),
        call.line.first_audio_us().unwrap(),
    );
    assert!((20 * MS..60 * MS).contains(&(sound_us - START_US)), "{sound_us}");
    assert!(
        (2 * S..2 * S + 500 * MS).contains(&(agent_us - START_US)),
        "{agent_us}"
    );
}

#[test]
fn silence_sent_to_a_caller_who_waits_is_no_sound() {
    let mut call = Call::start();
    call.talks(3 * S, 800, false);
    assert_eq!(call.line.first_sound_us(), None);
}

#[test]
fn an_engine_that_dies_unheard_does_not_restart_the_callers_wait() {
    let mut call = Call::start();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(2 * S, 800, false);
    call.does(Line::close_engine);
    call.events.clear();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(S, 800, true);
    let [(_, Event::AgentHeard { after_us })] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert!((2 * S..2 * S + 300 * MS).contains(&after_us), "{after_us}");
}

#[test]
fn after_an_engine_is_gone_the_next_ones_first_sound_is_told_again() {
    let mut call = Call::start();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(2 * S, 800, true);
    call.does(Line::close_engine);
    let gone_us = call.now_us;
    call.talks(S, 800, false);
    call.events.clear();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(S, 800, true);
    let [(at_us, Event::AgentHeard { after_us })] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert!(
        (at_us - gone_us..at_us - gone_us + 200 * MS).contains(&after_us),
        "{after_us}"
    );
}

#[test]
fn a_phone_at_another_rate_is_found_out_after_two_seconds() {
    for (samples, likely_hz) in [(1600, 16_000), (2400, 24_000)] {
        let mut call = Call::start();
        call.talks(4 * S, samples, false);
        let [(at_us, event)] = call.events[..] else {
            panic!("{:?}", call.events);
        };
        let Event::RateMismatch {
            claimed_hz,
            measured_hz,
            likely_hz: told_hz,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!((claimed_hz, told_hz), (8000, likely_hz));
        assert!(measured_hz.abs_diff(likely_hz) < likely_hz / 10, "{measured_hz}");
        assert!(at_us - START_US <= 2_200 * MS);
    }
}

#[test]
fn a_phone_at_its_rate_is_not_suspected() {
    let mut call = Call::start();
    call.talks(15 * S, 800, false);
    assert_eq!(call.events, []);
}

#[test]
fn a_stall_is_not_taken_for_another_rate() {
    let mut call = Call::start();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(S, 800, false);
    call.until(call.now_us + 1500 * MS);
    for _ in 0..15 {
        call.phone_says(800);
    }
    call.talks(14 * S, 800, false);
    assert_eq!(call.events, []);
}

#[test]
fn a_line_that_seems_to_stall_is_measured_again_for_longer() {
    // At half its rate, each chunk seems to come late.
    let mut call = Call::start_at(LineRate::KHZ_16);
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(14 * S, 800, false);
    assert!(call.line.intake_stats().stalls > 0);
    let [(at_us, Event::RateMismatch { likely_hz, .. })] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert_eq!(likely_hz, 8_000);
    assert!((12 * S..12_200 * MS).contains(&(at_us - START_US)), "{at_us} µs");
}

#[test]
fn an_engine_that_stops_answering_is_told() {
    let mut call = Call::start();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(2 * S, 800, true);
    call.events.clear();
    call.talks(5 * S, 800, false);
    let [(_, Event::EngineSilent { for_us })] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert!((S..1_300 * MS).contains(&for_us), "{for_us}");
}

#[test]
fn when_the_last_words_were_heard_is_told_once() {
    let mut call = Call::start();
    call.does(|line, now_us| line.play(&[0.2; 8000], now_us));
    call.does(Line::finish);
    call.until(call.now_us + S);
    assert!(call.events.is_empty() && !call.line.is_drained());
    let last = call.marks.last().unwrap().clone();
    for _ in 0..2 {
        call.does(|line, now_us| line.mark_played(&last, now_us));
    }
    assert_eq!(call.events, [(call.now_us, Event::AllPlayed)]);
    assert!(call.line.is_drained());
    assert_eq!(call.line.wake_us(), None);
}

#[test]
fn a_mark_that_comes_back_as_a_message_counts_as_played() {
    let mut call = Call::start();
    call.does(|line, now_us| line.play(&[0.2; 8000], now_us));
    call.does(Line::finish);
    call.until(call.now_us + S);
    assert!(!call.line.is_drained());
    let message = format!(
        r#"{{"event":"mark","mark":{{"name":"{}"}}}}"#,
        call.marks.last().unwrap()
    );
    call.does(|line, now_us| {
        line.phone_message(Message::text(message.as_bytes()), now_us)
            .unwrap()
    });
    assert_eq!(call.events, [(call.now_us, Event::AllPlayed)]);
    assert_eq!(call.line.media_stats().messages, 0, "a mark is no media");
}

#[test]
fn a_phone_that_echoes_no_mark_is_waited_for_half_a_second_after_the_last_words() {
    let mut call = Call::start();
    call.does(|line, now_us| line.play(&[0.2; 8000], now_us));
    call.does(Line::finish);
    call.until(call.now_us + 3 * S);
    let [(at_us, Event::AllPlayed)] = call.events[..] else {
        panic!("{:?}", call.events);
    };
    assert!((1_400 * MS..1_700 * MS).contains(&(at_us - START_US)), "{at_us}");
}

#[test]
fn a_call_that_ends_without_words_is_drained_at_once() {
    let mut call = Call::start();
    call.until(call.now_us + 500 * MS);
    call.does(Line::finish);
    assert_eq!(call.events, [(call.now_us, Event::AllPlayed)]);
}

#[test]
fn what_is_neither_media_nor_a_mark_changes_nothing() {
    let mut call = Call::start();
    let wake_us = call.line.wake_us();
    for message in [
        Message::text(br#"{"event":"stop"}"#),
        Message::text(b"nonsense"),
        Message::binary(&[0; 320]),
    ] {
        assert!(call.line.phone_message(message, call.now_us).is_none());
    }
    assert_eq!(call.line.wake_us(), wake_us);
    assert_eq!(call.line.media_stats().messages, 0);
}

#[test]
fn the_engine_gets_nothing_before_it_is_open_nor_after_it_is_closed() {
    let mut call = Call::start();
    call.talks(S, 800, false);
    assert_eq!(call.to_engine, 0);
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(S, 800, false);
    assert!(call.to_engine > 0);
    call.does(Line::close_engine);
    call.to_engine = 0;
    call.talks(S, 800, false);
    assert_eq!(call.to_engine, 0);
}

#[test]
fn what_was_said_and_heard_is_kept_for_a_recording() {
    let mut call = Call::start();
    call.line.keep_audio();
    call.does(|line, now_us| line.open_engine(now_us).unwrap());
    call.talks(2 * S, 800, true);
    call.until(call.now_us + S);
    let (mut pcm, mut pieces) = (Vec::new(), Vec::new());
    call.line.take_said(call.now_us, &mut pcm, &mut pieces);
    assert_eq!(pcm.len(), 16_000);
    assert_eq!((pieces.len(), pieces[0].at_us), (1, START_US));
    pcm.clear();
    call.line.take_heard(call.now_us, &mut pcm, &mut pieces);
    assert!(pcm.len() >= 12_000, "{}", pcm.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_input_breaks_a_line(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        inputs::give(&bytes);
    }
}
