//! Whole calls in simulated time, over paths to and from the phone that change: the estimate of what the phone holds
//! stays right.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod sim;

use sim::{CHUNKS_MS, Call, Heard, Leg, MS, S, Where, play};

#[test]
fn first_words_that_are_held_up_do_not_delay_all_others() {
    for chunk_ms in CHUNKS_MS {
        for held_ms in [60, 120, 180, 240] {
            let mut call = Call::new(chunk_ms, 25);
            call.prompts_us = 5 * S;
            let good = play(&call);
            let undisturbed = good.delay_ms(0.5, 12 * S, 25 * S);
            // Without the stall they would have been heard at once.
            let until_us = good.first_us + held_ms * MS;
            call.to_phone = Leg::stalled(&[(until_us - 2500 * MS, until_us)]);
            let heard = play(&call);
            let name = format!("{chunk_ms} ms chunks, first words held up by {held_ms} ms");
            heard.tell(&name, 12 * S, 25 * S);
            let after = heard.delay_ms(0.95, 12 * S, 25 * S);
            assert!(
                after <= undisturbed + 25.0,
                "{name}: {after} ms, {undisturbed} undisturbed"
            );
            assert_eq!(heard.holes_in(until_us + S, 25 * S), 0, "{name}");
        }
    }
}

#[test]
fn a_path_that_becomes_longer_while_the_caller_waits_is_not_taken_for_late_words() {
    for jitter_ms in [0, 5, 9, 15] {
        for seed in 1..5 {
            let mut call = Call::new(100, 90);
            call.seed = seed;
            call.prompts_us = 20 * S;
            let leg = Leg {
                delay_us: 60 * MS,
                jitter_us: jitter_ms * MS,
                ..Leg::default()
            };
            call.to_phone = leg.clone();
            call.from_phone = Leg {
                longer: (10 * S, 60 * MS),
                ..leg
            };
            let heard = play(&call);
            let name = format!("{jitter_ms} ms of jitter, seed {seed}");
            heard.tell(&name, 22 * S, 90 * S);
            assert_eq!(heard.holes_in(22 * S, 90 * S), 0, "{name}");
        }
    }
}

/// A call of 90 s over paths of 120 ms, one of which becomes longer, for a while or until the end.
fn longer(place: Where, by_ms: u64, from_us: u64, until_us: Option<u64>) -> Heard {
    let mut call = Call::new(100, 90);
    for way in [Where::ToPhone, Where::FromPhone] {
        let changes = way == place;
        call.put(
            way,
            Leg {
                delay_us: 120 * MS,
                longer: (from_us, if changes { by_ms * MS } else { 0 }),
                longer_until_us: until_us,
                ..Leg::default()
            },
        );
    }
    let heard = play(&call);
    heard.tell(
        &format!("{place:?} longer by {by_ms} ms from {from_us} until {until_us:?}"),
        25 * S,
        90 * S,
    );
    heard
}

#[test]
fn a_longer_path_to_or_from_the_phone_is_not_taken_for_a_longer_playback() {
    for place in [Where::ToPhone, Where::FromPhone] {
        for by_ms in [40, 60, 100, 300, 400] {
            let heard = longer(place, by_ms, 20 * S, None);
            // Audio that takes the longer path is missed once, and a part of the change is taken for a longer
            // playback at first.
            assert!(heard.holes_in(20 * S, 26 * S) as u64 * 20 <= 2 * by_ms);
            assert_eq!(heard.holes_in(26 * S, 90 * S), 0, "{:?}", heard.holes);
            let before = heard.delay_ms(0.5, 10 * S, 20 * S);
            let after = heard.delay_ms(0.95, 40 * S, 90 * S);
            assert!(
                after <= before + by_ms as f64 + 25.0,
                "{after} ms, {before} before"
            );
        }
    }
}

#[test]
fn a_path_to_or_from_the_phone_that_was_longer_for_a_while_leaves_no_delay() {
    for place in [Where::ToPhone, Where::FromPhone] {
        for by_ms in [60, 100, 300, 400] {
            for for_s in [3, 5, 10, 20] {
                let until_us = (20 + for_s) * S;
                let heard = longer(place, by_ms, 20 * S, Some(until_us));
                let before = heard.delay_ms(0.5, 10 * S, 20 * S);
                let after = heard.delay_ms(0.95, until_us + 20 * S, 90 * S);
                assert!(after <= before + 25.0, "{after} ms, {before} before");
                assert_eq!(heard.holes_in(until_us + 20 * S, 90 * S), 0, "{:?}", heard.holes);
            }
        }
    }
}

#[test]
fn a_shorter_path_to_or_from_the_phone_makes_the_delay_shorter() {
    for place in [Where::ToPhone, Where::FromPhone] {
        for by_ms in [40, 60, 100, 300, 400] {
            let heard = longer(place, by_ms, 0, Some(20 * S));
            assert_eq!(heard.holes_in(5 * S, 90 * S), 0, "{:?}", heard.holes);
            let before = heard.delay_ms(0.5, 10 * S, 20 * S);
            let after = heard.delay_ms(0.95, 40 * S, 90 * S);
            assert!(
                after <= before - by_ms as f64 + 25.0,
                "{after} ms, {before} before"
            );
        }
    }
}

/// Networks that are bad until 20 s, found by the random search in `time.rs`: delay and jitter in µs, and stalls, of
/// the paths from the phone, to it, to the engine and back.
///
/// In the first two the playback lengthened while the return path jittered, so too much was measured. When the jitter
/// ended, that excess was taken from the baseline instead. Then the phone was drained half a minute after the network
/// was good again, and once more each time the margin was released. In the others the first words were late. The
/// marks of the silence before them tell that, but were not used, and 190 to 260 ms of delay stayed.
#[test]
fn a_bad_network_leaves_no_wrong_estimate_of_the_remote_playback() {
    type Paths<'a> = [(u64, u64, &'a [(u64, u64)]); 4];
    let grew: Paths = [
        (93_812, 85_812, &[(13_614_010, 15_656_660)]),
        (82_521, 1_332, &[(13_463_114, 14_091_001)]),
        (
            3_727,
            109_107,
            &[(13_306_392, 16_013_461), (11_484_354, 13_782_489)],
        ),
        (63_047, 45_760, &[]),
    ];
    let grew_a_little: Paths = [
        (93_838, 42_867, &[]),
        (70_754, 20_514, &[]),
        (89_660, 39_200, &[]),
        (13_121, 115_901, &[]),
    ];
    let began_late: Paths = [
        (55_532, 1_481, &[(3_189_024, 4_686_585), (15_352_495, 17_554_031)]),
        (86_467, 20_714, &[(1_809_443, 4_285_925)]),
        (133_612, 41_241, &[(5_844_638, 5_848_054)]),
        (105_438, 17_216, &[]),
    ];
    let began_late_in_jitter: Paths = [
        (27_655, 60_015, &[(8_838_419, 10_451_364), (3_499_874, 4_481_717)]),
        (139_741, 48_691, &[(1_594_179, 4_353_186)]),
        (79_063, 50_296, &[(9_951_330, 10_715_303)]),
        (
            57_956,
            74_523,
            &[(14_490_355, 16_920_838), (2_718_718, 3_851_994)],
        ),
    ];
    for (name, chunk_ms, ready_us, breathless, step_ms, seed, paths) in [
        ("grew", 200, 3_656_602, true, 43, 7_239_679_179_198_064_017, grew),
        (
            "grew a little",
            100,
            5_973_965,
            false,
            32,
            5_430_322_841_272_264_244,
            grew_a_little,
        ),
        (
            "began late",
            100,
            3_666_166,
            false,
            45,
            8_579_764_375_388_811_088,
            began_late,
        ),
        (
            "began late in jitter",
            20,
            3_811_169,
            true,
            30,
            6_772_013_566_049_185_311,
            began_late_in_jitter,
        ),
    ] {
        let mut call = Call::new(chunk_ms, 50);
        call.prompts_us = ready_us;
        call.breathless = breathless;
        call.step_us = step_ms * MS;
        call.seed = seed;
        [call.from_phone, call.to_phone, call.to_engine, call.from_engine] =
            paths.map(|(delay_us, jitter_us, stalls)| Leg {
                delay_us,
                jitter_us,
                jitter_until_us: Some(20 * S),
                ..Leg::stalled(stalls)
            });
        let heard = play(&call);
        heard.tell(name, 35 * S, 50 * S);
        assert_eq!(heard.holes_in(25 * S, 50 * S), 0, "{name}: {:?}", heard.holes);
        let undisturbed = play(&call.undisturbed()).delay_ms(0.9, 45 * S, 50 * S);
        let soon = heard.delay_ms(0.9, 28 * S, 33 * S);
        assert!(soon <= undisturbed + 200.0, "{name}: {soon} ms soon after");
        let after = heard.delay_ms(0.9, 35 * S, 50 * S);
        assert!(
            after <= undisturbed + 45.0,
            "{name}: {after} ms, {undisturbed} undisturbed"
        );
    }
}
