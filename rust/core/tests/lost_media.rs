//! The phone's media is lost (hold, mute, lost packets), or late, or both. Late media is made up for. For lost media
//! nothing is taken out of later speech.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod sim;

use proptest::prelude::*;
use sim::{Call, Heard, MS, S, play};

const ALL_CHUNKS_MS: [u64; 4] = [20, 40, 60, 100];
/// The agent may be interrupted for this long when a gap begins: it is not known yet that there is one.
const GAP_MS: u64 = 250;

/// A call of 40 s in which the phone sends nothing from 10 s on.
fn with_gap(chunk_ms: u64, jitter_us: u64, gap_ms: u64, held: bool, breathless: bool) -> (Heard, u64) {
    let mut call = Call::new(chunk_ms, 40);
    call.breathless = breathless;
    call.from_phone.jitter_us = jitter_us;
    let to_us = 10 * S + gap_ms * MS;
    if held {
        call.held.push((10 * S, to_us));
    } else {
        call.lost.push((10 * S, to_us));
    }
    (play(&call), to_us)
}

#[test]
fn speech_after_a_gap_reaches_the_engine_whole_and_no_delay_stays() {
    for chunk_ms in ALL_CHUNKS_MS {
        for jitter_us in [0, 500, 4 * MS, 40 * MS] {
            for gap_ms in [1000, 3030, 10_000] {
                for (held, breathless) in [(false, false), (false, true), (true, false), (true, true)] {
                    let (heard, to_us) = with_gap(chunk_ms, jitter_us, gap_ms, held, breathless);
                    let name = format!(
                        "chunks of {chunk_ms} ms, jitter {jitter_us} µs, gap {gap_ms} ms, held {held}, \
                         breathless {breathless}"
                    );
                    heard.tell(&name, to_us + 3 * S, 40 * S);
                    let (pauses_ms, speech_ms) = heard.taken_out_ms(0, 40 * S);
                    assert_eq!(speech_ms, 0, "{name}");
                    assert!(pauses_ms <= 40, "{name}: {pauses_ms} ms of pauses");
                    let before_ms = heard.delay_ms(0.95, 5 * S, 10 * S);
                    let after_ms = heard.delay_ms(0.95, to_us + 3 * S, 40 * S);
                    assert!(
                        after_ms <= before_ms + 40.0,
                        "{name}: {before_ms} ms, {after_ms} after"
                    );
                    assert!(
                        heard.longest_gap_ms(2 * S, 40 * S) <= GAP_MS,
                        "{name}: the model stood still"
                    );
                }
            }
        }
    }
}

/// What happens to the phone's media in 26 s: what the last 15 s taught is forgotten at the end.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Lost {
        us: u64,
    },
    Held {
        us: u64,
    },
    Late {
        us: u64,
    },
    LateThenLost {
        late_us: u64,
        lost_us: u64,
    },
    LostThenLate {
        lost_us: u64,
        late_us: u64,
    },
    /// Sound is lost, and what follows it is late.
    LostInStall {
        lost_us: u64,
        late_us: u64,
    },
    /// So many single chunks are lost in the first five seconds.
    Chunks {
        number: u64,
    },
}

const STEP_MS: u64 = 20;
const SLOT_US: u64 = 26 * S;

impl Fault {
    fn add_to(self, call: &mut Call, at_us: u64) {
        let stalls = &mut call.from_phone.stalls;
        match self {
            Self::Nothing => {}
            Self::Lost { us } => call.lost.push((at_us, at_us + us)),
            Self::Held { us } => call.held.push((at_us, at_us + us)),
            Self::Late { us } => stalls.push((at_us, at_us + us)),
            Self::LateThenLost { late_us, lost_us } => {
                stalls.push((at_us, at_us + late_us));
                call.lost.push((at_us + late_us, at_us + late_us + lost_us));
            }
            Self::LostThenLate { lost_us, late_us } => {
                call.lost.push((at_us, at_us + lost_us));
                stalls.push((at_us + lost_us, at_us + lost_us + late_us));
            }
            Self::LostInStall { lost_us, late_us } => {
                call.lost.push((at_us, at_us + lost_us));
                stalls.push((at_us + lost_us / 2, at_us + lost_us / 2 + late_us));
            }
            Self::Chunks { number } => {
                let apart_us = 5 * S / number;
                let lost = (0..number).map(|n| at_us + n * apart_us);
                call.lost
                    .extend(lost.map(|from_us| (from_us, from_us + call.chunk_ms * MS)));
            }
        }
    }

    /// How much audio can have been late.
    fn late_us(self) -> u64 {
        match self {
            Self::Nothing | Self::Lost { .. } | Self::Held { .. } | Self::Chunks { .. } => 0,
            Self::Late { us } => us,
            Self::LateThenLost { late_us, .. }
            | Self::LostThenLate { late_us, .. }
            | Self::LostInStall { late_us, .. } => late_us,
        }
    }
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let length = 20 * MS..4 * S;
    let two = (length.clone(), 20 * MS..2 * S);
    prop_oneof![
        Just(Fault::Nothing),
        (20 * MS..6 * S).prop_map(|us| Fault::Lost { us }),
        (20 * MS..6 * S).prop_map(|us| Fault::Held { us }),
        length.prop_map(|us| Fault::Late { us }),
        two.clone()
            .prop_map(|(lost_us, late_us)| Fault::LateThenLost { late_us, lost_us }),
        two.clone()
            .prop_map(|(lost_us, late_us)| Fault::LostThenLate { lost_us, late_us }),
        two.prop_map(|(lost_us, late_us)| Fault::LostInStall { lost_us, late_us }),
        (1..20_u64).prop_map(|number| Fault::Chunks { number }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Jitter of up to 40 ms is never taken for a stall.
    #[test]
    fn whatever_is_lost_or_late_speech_in_time_is_whole_and_no_delay_stays(
        chunk_ms in prop::sample::select(vec![20_u64, 40, 60, 100, 200]),
        ready_us in 0..3 * S,
        jitter_us in 0..40 * MS,
        drift_ppm in -200..200_i64,
        faults in prop::collection::vec((0..2 * S, any_fault()), 1..5),
        breathless: bool,
        seed in 1..u64::MAX,
    ) {
        let begin_us = ready_us + S;
        let mut call = Call::new(chunk_ms, (begin_us + SLOT_US / 2) / S);
        call.prompts_us = ready_us;
        call.from_phone.jitter_us = jitter_us;
        (call.drift_ppm, call.player_drift_ppm) = (drift_ppm, drift_ppm);
        (call.breathless, call.seed) = (breathless, seed);
        let usual_ms = play(&call).delay_ms(0.95, begin_us + 2 * S, begin_us + SLOT_US / 2);
        call.seconds = (begin_us + faults.len() as u64 * SLOT_US) / S + 1;
        for (slot, &(within_us, fault)) in faults.iter().enumerate() {
            fault.add_to(&mut call, begin_us + slot as u64 * SLOT_US + within_us);
        }
        let heard = play(&call);
        prop_assert_eq!(heard.bad_samples, 0);
        let mut late_ms = 0;
        for (slot, &(_, fault)) in faults.iter().enumerate() {
            let from_us = begin_us + slot as u64 * SLOT_US;
            let to_us = from_us + SLOT_US;
            if fault.late_us() > 0 {
                late_ms += fault.late_us() / MS + call.chunk_ms + STEP_MS;
            }
            let (pauses_ms, speech_ms) = heard.taken_out_ms(0, to_us);
            // Noise is inserted in steps. More than two that were too much are made up for.
            let steps_ms = 2 * STEP_MS * slot as u64;
            prop_assert!(speech_ms <= late_ms + steps_ms, "{speech_ms} ms taken out: {fault:?} at {from_us}");
            let all_ms = pauses_ms + speech_ms;
            prop_assert!(all_ms <= late_ms + steps_ms + 2 * STEP_MS, "{all_ms} ms taken out: {fault:?} at {from_us}");
            let delay_ms = heard.delay_ms(0.95, to_us - 1500 * MS, to_us);
            prop_assert!(delay_ms <= usual_ms + 80.0, "{delay_ms} ms, {usual_ms} usually: {fault:?} at {from_us}");
        }
    }
}

#[test]
fn a_phone_that_holds_again_and_again_gathers_no_delay() {
    for chunk_ms in ALL_CHUNKS_MS {
        let mut call = Call::new(chunk_ms, 320);
        call.breathless = true;
        call.from_phone.jitter_us = 4 * MS;
        for hold in 0..10 {
            let from_us = (10 + 30 * hold) * S + hold * 7 * MS;
            call.held.push((from_us, from_us + 5 * S));
        }
        let heard = play(&call);
        let before_ms = heard.delay_ms(0.95, 5 * S, 10 * S);
        let after_ms = heard.delay_ms(0.95, 300 * S, 310 * S);
        heard.tell(&format!("{chunk_ms} ms chunks"), 300 * S, 310 * S);
        assert!(
            after_ms <= before_ms + 40.0,
            "{chunk_ms} ms chunks: {before_ms} ms, {after_ms} after"
        );
        let (_, speech_ms) = heard.taken_out_ms(0, 320 * S);
        assert!(
            speech_ms <= 10 * STEP_MS,
            "{chunk_ms} ms chunks: {speech_ms} ms taken out"
        );
    }
}

/// The engine loses what it is given, and so says nothing for it. How late its audio was meanwhile is not known.
#[test]
fn what_an_agent_says_after_a_gap_is_not_made_faster() {
    for chunk_ms in ALL_CHUNKS_MS {
        for (jitter_us, gap_ms) in [(0, 1000), (4 * MS, 3030), (40 * MS, 900), (40 * MS, 3000)] {
            let mut call = Call::new(chunk_ms, 40);
            call.breathless = true;
            call.from_engine.jitter_us = jitter_us;
            let usual = play(&call).playout;
            call.deaf = (10 * S, 10 * S + gap_ms * MS);
            let playout = play(&call).playout;
            let name = format!("chunks of {chunk_ms} ms, jitter {jitter_us} µs, gap {gap_ms} ms");
            let faster_ms = (playout.removed_in_speech - usual.removed_in_speech) / 8;
            println!("{name}: {faster_ms} ms");
            assert!(faster_ms <= 100, "{name}: {faster_ms} ms");
            assert_eq!((playout.cut, playout.flushed), (0, 0), "{name}");
        }
    }
}
