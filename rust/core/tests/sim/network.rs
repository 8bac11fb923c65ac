//! Bad networks: TCP loses nothing and reorders nothing, so a way is a function from when a message is sent to when
//! it arrives.

use super::S;

/// xorshift64: the same seed, the same network.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
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

    /// Any delay, jitter and stalls, drawn from `random`; steady from 20 s on.
    pub fn random(random: &mut Random) -> Self {
        let (delay_us, jitter_us) = (random.below(150_000), random.below(120_000));
        let stalls = (0..random.below(3))
            .map(|_| {
                let from_us = S + random.below(15 * S);
                (from_us, from_us + random.below(3 * S))
            })
            .collect();
        Self {
            delay_us,
            jitter_us,
            jitter_until_us: Some(20 * S),
            stalls,
            ..Self::default()
        }
    }
}

#[derive(Debug)]
pub struct Wire {
    leg: Leg,
    random: Random,
    last_us: u64,
}

impl Wire {
    pub fn new(leg: &Leg, seed: u64) -> Self {
        Self {
            leg: leg.clone(),
            random: Random::new(seed),
            last_us: 0,
        }
    }

    pub fn arrives_us(&mut self, sent_us: u64) -> u64 {
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
