//! Whole calls in simulated time, with engines that are behind, slower than real time, or seem to be.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod sim;

use pxbridge_core::uplink::intake::IntakeStats;
use sim::{CHUNKS_MS, Call, Heard, Leg, MS, S, Where, play};

/// Samples of the caller's audio that the engine never got.
fn left_out(intake: &IntakeStats) -> u64 {
    intake.removed_in_pauses + intake.removed_in_speech + intake.cut + intake.withheld
}

#[test]
fn an_engine_slower_than_real_time_costs_some_audio_and_a_delay_that_does_not_grow() {
    for chunk_ms in CHUNKS_MS {
        for (step_ms, breathless, most_ms) in [
            (82, true, 450.0),
            (85, false, 500.0),
            (85, true, 500.0),
            (100, false, 1250.0),
            (100, true, 1250.0),
            (115, true, 2300.0),
        ] {
            let mut call = Call::new(chunk_ms, 180);
            call.breathless = breathless;
            let usual_ms = play(&call).delay_ms(0.5, 10 * S, 180 * S) + (step_ms - 30) as f64;
            call.step_us = step_ms * MS;
            let heard = play(&call);
            let name = format!("{chunk_ms} ms chunks, {step_ms} ms a step, breathless {breathless}");
            heard.tell(&name, 10 * S, 180 * S);
            let more_ms = |quantile| heard.delay_ms(quantile, 10 * S, 180 * S) - usual_ms;
            let (often_ms, ever_ms) = (more_ms(0.95), more_ms(1.0));
            println!("    {often_ms:.0} ms more, {ever_ms:.0} at most");
            assert!(
                often_ms <= most_ms && ever_ms <= 1.5 * most_ms + 100.0,
                "{name}: {often_ms} ms, {ever_ms} at most"
            );
            let (left_out, too_much) = (left_out(&heard.intake), 180_000 * 8 * (step_ms - 80) / step_ms);
            assert!(heard.intake.slow > 0 && heard.intake.holds == 0);
            assert!(
                (too_much - 16_000..too_much + 8000).contains(&left_out),
                "{name}: {left_out} samples of {too_much}"
            );
        }
    }
}

#[test]
fn an_engine_that_keeps_up_gets_everything_though_its_network_stalls_and_jitters() {
    for chunk_ms in CHUNKS_MS {
        for (step_ms, place) in [
            (30, Where::ToEngine),
            (30, Where::FromEngine),
            (60, Where::FromEngine),
        ] {
            let mut call = Call::new(chunk_ms, 60);
            call.step_us = step_ms * MS;
            let leg = Leg {
                jitter_us: 120 * MS,
                ..Leg::stalled(&[(10 * S, 11 * S), (20 * S, 20_900 * MS), (30 * S, 30_500 * MS)])
            };
            call.put(place, leg);
            let intake = play(&call).intake;
            assert_eq!(left_out(&intake), 0, "{place:?}: {intake:?}");
        }
    }
}

#[test]
fn a_longer_path_to_the_engine_is_soon_told_from_a_backlog() {
    for chunk_ms in CHUNKS_MS {
        for (longer_ms, jitter_ms) in [
            (200, 0),
            (400, 0),
            (900, 0),
            (1500, 0),
            (300, 200),
            (400, 300),
            (400, 400),
        ] {
            let mut call = Call::new(chunk_ms, 300);
            call.to_engine.longer = (20 * S, longer_ms * MS);
            call.from_engine.jitter_us = jitter_ms * MS;
            let at = |seconds| {
                let call = Call {
                    seconds,
                    ..call.clone()
                };
                left_out(&play(&call).intake)
            };
            let (by_120_s, by_300_s) = (at(120), at(300));
            println!(
                "{chunk_ms} ms chunks, {longer_ms} ms longer, jitter {jitter_ms} ms: {by_120_s} samples left out"
            );
            assert_eq!(by_300_s, by_120_s);
            assert!(by_120_s <= 8 * (2100 + 2 * longer_ms));
        }
    }
}

#[test]
fn an_engine_that_is_hardly_slower_than_real_time_is_never_far_behind() {
    for step_us in [80_300, 81_000] {
        let mut call = Call::new(100, 1800);
        call.step_us = step_us;
        let heard = play(&call);
        let of = |from_s: u64, to_s: u64| heard.delay_ms(0.5, from_s * S, to_s * S);
        let (early, late) = (of(10, 60), of(1740, 1800));
        println!("{step_us} µs a step: {early} ms, {late} ms after half an hour");
        assert!(late <= early + 1000.0);
    }
}

/// A slow engine, and a stall: by how much the delay from 10 s after the stall on is longer than before, in ms.
fn slow_and(chunk_ms: u64, step_ms: u64, breathless: bool, place: Where, stall: (u64, u64)) -> f64 {
    let mut call = Call::new(chunk_ms, 160);
    call.breathless = breathless;
    call.step_us = step_ms * MS;
    call.put(place, Leg::stalled(&[stall]));
    let heard = play(&call);
    assert_eq!(heard.intake.emitted % 160, 0, "whole 20 ms");
    heard.delay_ms(0.95, stall.1 + 10 * S, 160 * S) - heard.delay_ms(0.95, 10 * S, stall.0)
}

#[test]
fn a_stall_leaves_no_more_delay_where_the_engine_is_slow() {
    for chunk_ms in CHUNKS_MS {
        for (step_ms, breathless) in [(85, false), (85, true), (100, false), (100, true)] {
            for place in [Where::FromPhone, Where::ToEngine, Where::FromEngine] {
                for stall_ms in [300, 1000, 1500, 3000, 10_000] {
                    let stall = (60 * S, 60 * S + stall_ms * MS);
                    let more_ms = slow_and(chunk_ms, step_ms, breathless, place, stall);
                    assert!(
                        more_ms <= 500.0,
                        "{more_ms} ms: {chunk_ms} ms chunks, {step_ms} ms a step, breathless {breathless}, {place:?} {stall_ms} ms"
                    );
                }
            }
        }
    }
}

#[test]
fn an_engine_that_was_slow_for_a_while_gets_everything_as_soon_as_it_has_caught_up() {
    for chunk_ms in CHUNKS_MS {
        for (spell_ms, step_ms) in [(3000, 400), (4000, 800), (6000, 700)] {
            let mut call = Call::new(chunk_ms, 60);
            call.breathless = true;
            call.spell = (20 * S, 20 * S + spell_ms * MS, step_ms * MS);
            let heard = play(&call);
            let from_us = 21 * S + spell_ms * MS;
            assert_eq!(heard.gaps_in(from_us, 60 * S), []);
            let (before, after) = (
                heard.delay_ms(0.5, 5 * S, 20 * S),
                heard.delay_ms(0.95, from_us + 11 * S, 60 * S),
            );
            assert!(after <= before + 40.0, "{after} ms, {before} before");
        }
    }
}

#[test]
fn an_engine_that_lost_something_soon_gets_everything_again() {
    for chunk_ms in CHUNKS_MS {
        for lost_ms in [300, 600, 1000, 3000] {
            for stall_s in [0, 8] {
                let mut call = Call::new(chunk_ms, 100);
                call.step_us = 50 * MS;
                call.deaf = (20 * S, 20 * S + lost_ms * MS);
                let stalled = (20_500 * MS, 20_500 * MS + stall_s * S);
                call.from_phone = Leg::stalled(&[stalled]);
                let at = |seconds| {
                    let call = Call {
                        seconds,
                        ..call.clone()
                    };
                    play(&call)
                };
                let left_out_in = |heard: &Heard| {
                    left_out(&heard.intake) - heard.intake.inserted.min(left_out(&heard.intake))
                };
                let (early, whole) = (at(60), at(100));
                let name = format!("{chunk_ms} ms chunks, {lost_ms} ms lost, stall {stall_s} s");
                let longest = whole
                    .gaps_in(20 * S, 60 * S)
                    .into_iter()
                    .map(|gap| gap.1 / MS)
                    .max();
                println!(
                    "{name}: {} and {} samples left out, longest gap {longest:?} ms",
                    left_out_in(&early),
                    left_out_in(&whole)
                );
                assert_eq!(left_out_in(&whole), left_out_in(&early), "{name}");
                assert!(
                    left_out_in(&whole) <= 8 * (4000 + 2 * lost_ms + 1000 * stall_s),
                    "{name}"
                );
            }
        }
    }
}
