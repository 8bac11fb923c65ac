//! Audio of a line, kept for a recording until the recorder fetches it.
//!
//! It is kept as 16-bit samples, in pieces with their times: the caller's with the time they came, the agent's with
//! the time they are heard. A `clear` can still take back audio that will be heard later than now, so only past audio
//! is given out.

use std::collections::VecDeque;

use crate::codec::pcm;
use crate::rate::LineRate;

/// The most audio that is kept, in seconds. A recorder fetches it about every second.
const KEPT_S: usize = 60;

/// A stretch of audio without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// When its first sample was or is heard.
    pub at_us: u64,
    /// Its length in samples.
    pub samples: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Tap {
    rate: LineRate,
    pieces: VecDeque<Piece>,
    pcm: VecDeque<i16>,
    lost: u64,
}

impl Tap {
    /// A tap without audio.
    #[must_use]
    pub fn new(rate: LineRate) -> Self {
        Self {
            rate,
            pieces: VecDeque::new(),
            pcm: VecDeque::new(),
            lost: 0,
        }
    }

    /// Keeps audio whose first sample came or is heard at `at_us`. Pieces that come in a burst may overlap.
    pub fn push(&mut self, pcm: &[f32], at_us: u64) {
        if pcm.is_empty() {
            return;
        }
        if self.pcm.len() + pcm.len() > KEPT_S * self.rate.hz() as usize {
            self.lost += pcm.len() as u64;
            return;
        }
        if self.end_us() == at_us
            && let Some(last) = self.pieces.back_mut()
        {
            last.samples += pcm.len();
        } else {
            self.pieces.push_back(Piece {
                at_us,
                samples: pcm.len(),
            });
        }
        self.pcm.extend(pcm.iter().map(|&sample| pcm::to_i16(sample)));
    }

    /// Audio that would be heard after `now_us` will not be heard.
    pub fn cut(&mut self, now_us: u64) {
        while let Some(last) = self.pieces.back_mut() {
            let heard = self.rate.samples_in_us(now_us.saturating_sub(last.at_us) as i64);
            let kept = last.samples.min(heard);
            self.pcm.truncate(self.pcm.len() - (last.samples - kept));
            last.samples = kept;
            if kept > 0 {
                return;
            }
            self.pieces.pop_back();
        }
    }

    /// Gives out the audio that has been heard by `now_us`: appends its samples and its pieces.
    pub fn take(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        while let Some(first) = self.pieces.front_mut() {
            let heard = self.rate.samples_in_us(now_us.saturating_sub(first.at_us) as i64);
            let taken = first.samples.min(heard);
            if taken == 0 {
                return;
            }
            pcm.extend(self.pcm.drain(..taken));
            pieces.push(Piece {
                samples: taken,
                ..*first
            });
            if taken < first.samples {
                // Exact to the sample as long as a piece is taken in parts of whole samples: see
                // `LineRate::us_until_over`.
                first.at_us += self.rate.us_until_over(taken);
                first.samples -= taken;
                return;
            }
            self.pieces.pop_front();
        }
    }

    /// Samples that were not kept because nobody fetched earlier ones.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// When the newest piece that is still kept ends; 0 for none.
    #[must_use]
    pub fn end_us(&self) -> u64 {
        self.pieces
            .back()
            .map_or(0, |last| last.at_us + self.rate.us_until_over(last.samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER_US: u64 = 1 << 40;

    fn taken(tap: &mut Tap, now_us: u64) -> (Vec<i16>, Vec<Piece>) {
        let (mut pcm, mut pieces) = (Vec::new(), Vec::new());
        tap.take(now_us, &mut pcm, &mut pieces);
        (pcm, pieces)
    }

    #[test]
    fn only_what_has_been_heard_is_given_out() {
        let mut tap = Tap::new(LineRate::ALL[0]);
        tap.push(&[0.5; 800], 1_000_000);
        assert!(taken(&mut tap, 1_000_000).1.is_empty());
        let half = taken(&mut tap, 1_050_000).1;
        assert_eq!((half[0].at_us, half[0].samples), (1_000_000, 400));
        let rest = taken(&mut tap, 9_000_000).1;
        assert_eq!((rest[0].at_us, rest[0].samples), (1_050_000, 400));
    }

    #[test]
    fn a_clear_takes_back_what_was_not_heard() {
        let mut tap = Tap::new(LineRate::ALL[0]);
        tap.push(&[0.5; 800], 0);
        tap.push(&[0.5; 800], 200_000);
        tap.cut(50_000);
        tap.push(&[0.25; 80], 60_000);
        let (pcm, pieces) = taken(&mut tap, 9_000_000);
        assert_eq!(pcm.len(), 480);
        assert_eq!(
            pieces.iter().map(|p| (p.at_us, p.samples)).collect::<Vec<_>>(),
            [(0, 400), (60_000, 80)]
        );
    }

    #[test]
    fn seamless_audio_is_one_piece() {
        let mut tap = Tap::new(LineRate::ALL[0]);
        for chunk in 0..10 {
            tap.push(&[0.1; 160], chunk * 20_000);
        }
        assert_eq!(taken(&mut tap, 9_000_000).1.len(), 1);
    }

    #[test]
    fn a_burst_keeps_its_times() {
        let mut tap = Tap::new(LineRate::ALL[0]);
        for _ in 0..3 {
            tap.push(&[0.1; 800], 4_900_000);
        }
        assert!(
            taken(&mut tap, 5_000_000)
                .1
                .iter()
                .all(|piece| piece.at_us == 4_900_000)
        );
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut tap = Tap::new(LineRate::ALL[0]);
        for second in 0..100 {
            tap.push(&[0.1; 8000], second * 1_000_000);
        }
        assert_eq!(taken(&mut tap, LATER_US).0.len(), KEPT_S * 8000);
        assert_eq!(tap.lost(), 40 * 8000);
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_hold_all_samples(
            steps in prop::collection::vec((0usize..500, 0u64..100_000, 0u8..4), 1..50),
            rate in prop::sample::select(LineRate::ALL.to_vec()),
        ) {
            let mut tap = Tap::new(rate);
            let (mut pcm, mut pieces, mut now_us) = (Vec::new(), Vec::new(), 0);
            for (samples, wait_us, act) in steps {
                now_us += wait_us;
                match act {
                    0 => tap.cut(now_us),
                    1 => tap.take(now_us, &mut pcm, &mut pieces),
                    _ => tap.push(&vec![0.1; samples], tap.end_us().max(now_us + 5_000)),
                }
            }
            tap.take(LATER_US, &mut pcm, &mut pieces);
            prop_assert_eq!(pcm.len(), pieces.iter().map(|p| p.samples).sum::<usize>());
            for two in pieces.windows(2) {
                let whole_us = rate.us(two[0].samples) as u64;
                prop_assert!(two[0].at_us + whole_us <= two[1].at_us);
            }
        }
    }
}
