//! Random networks, the same ones for each version of the code: one line of figures per call.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod sim;

use sim::{Call, Leg, MS, Random, S, play};

#[test]
#[ignore = "figures to compare versions of the code by"]
fn networks() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    for network in number("NETWORKS_FROM", 0)..number("NETWORKS_TO", 100) {
        let mut random = Random::new((network + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..8 {
            random.below(2);
        }
        let mut call = Call::new([20, 40, 60, 100, 200][random.below(5) as usize], 50);
        call.prompts_us = random.below(6 * S);
        call.breathless = random.below(2) == 1;
        call.step_us = (30 + random.below(35)) * MS;
        call.from_phone = Leg::random(&mut random);
        call.to_phone = Leg::random(&mut random);
        call.to_engine = Leg::random(&mut random);
        call.from_engine = Leg::random(&mut random);
        call.seed = random.below(u64::MAX - 1) + 1;
        let heard = play(&call);
        let undisturbed = play(&call.undisturbed()).delay_ms(0.9, 45 * S, 50 * S);
        let gaps_ms: u64 = heard.gaps_in(0, 50 * S).iter().map(|gap| gap.1 / MS).sum();
        let heard_in_stalls = heard
            .delays
            .iter()
            .any(|delay| (15 * S..20 * S).contains(&delay.0));
        println!(
            "{network} {undisturbed:.1} {:.1} {:.1} {:.1} {:.1} {:.1} {:.1} {} {} {} {} {} {} {} {:x}",
            heard.delay_ms(0.5, 0, 50 * S),
            heard.delay_ms(0.95, 0, 50 * S),
            heard.delay_ms(0.99, 0, 50 * S),
            if heard_in_stalls {
                heard.delay_ms(0.5, 15 * S, 20 * S)
            } else {
                f64::NAN
            },
            heard.delay_ms(0.9, 30 * S, 33 * S) - undisturbed,
            heard.delay_ms(0.9, 45 * S, 50 * S) - undisturbed,
            heard.holes_in(0, 45 * S),
            heard.holes_in(45 * S, 50 * S),
            gaps_ms,
            heard.longest_gap_ms(0, 50 * S),
            (heard.intake.removed_in_speech + heard.intake.cut) / 8,
            heard.clears,
            heard.wakes,
            heard.fingerprint,
        );
    }
}
