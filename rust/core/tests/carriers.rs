//! Whole calls over carriers of every kind, with real codecs: JSON with marks, binary without, and a codec with a
//! state.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod sim;

use sim::{CHUNKS_MS, Call, Leg, MS, Random, S, Wires, play};

const REAL: [Wires; 3] = [Wires::Exotel, Wires::BinaryWithoutMarks, Wires::OggOpus];

fn call_over(wires: Wires, chunk_ms: u64, seconds: u64) -> Call {
    let mut call = Call::new(chunk_ms, seconds);
    call.wires = wires;
    call
}

#[test]
fn a_quiet_call_is_as_quick_over_any_carrier() {
    for chunk_ms in CHUNKS_MS {
        let raw_ms = play(&call_over(Wires::Raw, chunk_ms, 20)).delay_ms(0.5, 3 * S, 20 * S);
        for wires in REAL {
            let heard = play(&call_over(wires, chunk_ms, 20));
            heard.tell(&format!("{wires:?}, {chunk_ms} ms chunks"), 3 * S, 20 * S);
            let p50_ms = heard.delay_ms(0.5, 3 * S, 20 * S);
            assert!(
                (p50_ms - raw_ms).abs() <= 21.0,
                "{wires:?}: {p50_ms}, raw {raw_ms}"
            );
            assert_eq!(heard.holes_in(3 * S, 20 * S), 0);
            assert_eq!(heard.gaps_in(3 * S, 20 * S), []);
            assert_eq!((heard.bad_samples, heard.clears), (0, 0));
        }
    }
}

#[test]
fn a_stall_of_the_phone_leaves_no_delay_over_any_carrier() {
    for wires in REAL {
        let mut call = call_over(wires, 100, 20);
        call.from_phone = Leg::stalled(&[(8 * S, 9500 * MS)]);
        let heard = play(&call);
        heard.tell(&format!("{wires:?}, the phone stalls"), 3 * S, 20 * S);
        let before_ms = heard.delay_ms(0.5, 3 * S, 8 * S);
        assert!(heard.delay_ms(0.95, 13 * S, 20 * S) <= before_ms + 40.0);
    }
}

#[test]
fn a_stall_towards_the_phone_is_found_by_marks_where_there_are_any() {
    for wires in [Wires::Exotel, Wires::OggOpus] {
        let mut call = call_over(wires, 100, 20);
        call.to_phone = Leg::stalled(&[(8 * S, 9500 * MS)]);
        let heard = play(&call);
        heard.tell(&format!("{wires:?}, stalled towards the phone"), 3 * S, 20 * S);
        let before_ms = heard.delay_ms(0.5, 3 * S, 8 * S);
        assert!(heard.delay_ms(0.95, 14 * S, 20 * S) <= before_ms + 40.0);
    }
}

#[test]
fn without_marks_pings_alone_see_that_a_line_jitters_and_that_it_is_steady_again() {
    let mut call = call_over(Wires::BinaryWithoutMarks, 100, 40);
    call.prompts_us = 3 * S;
    let quiet_ms = play(&call).delay_ms(0.5, 32 * S, 40 * S);
    call.to_phone.jitter_us = 80 * MS;
    call.to_phone.jitter_until_us = Some(20 * S);
    let heard = play(&call);
    heard.tell("no marks, jitter towards the phone until 20 s", 3 * S, 40 * S);
    assert!(heard.holes_in(5 * S, 20 * S) <= 1, "{:?}", heard.holes);
    // What the phone's side held when the jitter ended is not known to anybody, but it does not grow.
    assert!(heard.delay_ms(0.5, 32 * S, 40 * S) <= quiet_ms + 80.0);
}

#[test]
fn what_ships_recovers_from_random_networks_as_the_raw_line_does() {
    for network in 0..12 {
        let mut random = Random::new((network + 1_u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut call = call_over(
            Wires::Exotel,
            [20, 40, 60, 100, 200][random.below(5) as usize],
            50,
        );
        call.prompts_us = random.below(6 * S);
        call.breathless = random.below(2) == 1;
        call.from_phone = Leg::random(&mut random);
        call.to_phone = Leg::random(&mut random);
        call.to_engine = Leg::random(&mut random);
        call.from_engine = Leg::random(&mut random);
        call.seed = network + 1;
        let heard = play(&call);
        let undisturbed_ms = play(&call.undisturbed()).delay_ms(0.9, 45 * S, 50 * S);
        let more_ms = heard.delay_ms(0.9, 45 * S, 50 * S) - undisturbed_ms;
        println!("network {network}: {undisturbed_ms:.0} ms, {more_ms:.0} ms more at the end");
        assert!(more_ms <= 250.0, "{more_ms} ms");
        assert_eq!(heard.holes_in(45 * S, 50 * S), 0, "{:?}", heard.holes);
    }
}
