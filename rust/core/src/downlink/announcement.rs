//! The bridge's own sound on its way to the phone: greetings, announcements, hold music.
//!
//! All of it is here from the start, so the only question is how much to send ahead. It must be enough to cover the
//! network's usual delays. It must also be little, because an agent that begins to speak has to wait for it.

use std::collections::VecDeque;

use crate::rate::{LineRate, PACKET_MS};

/// Sound beyond this is not queued: music is queued piece by piece.
const LONGEST_S: usize = 60;

/// The bridge's own sound that waits to be sent, in whole packets.
///
/// Sound that was sent takes no memory. Otherwise a call that heard a minute of music would keep it to its end.
#[derive(Debug)]
pub(crate) struct Announcement {
    pcm: VecDeque<f32>,
    packet: usize,
    longest: usize,
}

impl Announcement {
    pub(crate) fn new(rate: LineRate) -> Self {
        Self {
            pcm: VecDeque::new(),
            packet: rate.samples(PACKET_MS),
            longest: rate.samples(1000) * LONGEST_S,
        }
    }

    /// Queues sound behind what waits, as far as there is room.
    pub(crate) fn push(&mut self, pcm: &[f32]) {
        let room = self.longest - self.pcm.len();
        self.pcm.extend(&pcm[..pcm.len().min(room)]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pcm.is_empty()
    }

    /// Samples that wait.
    pub(crate) fn len(&self) -> usize {
        self.pcm.len()
    }

    /// Appends `packets` packets, or fewer if less waits. The last one is filled up with silence.
    pub(crate) fn take(&mut self, packets: usize, out: &mut Vec<f32>) {
        let samples = (packets * self.packet).min(self.pcm.len());
        out.extend(self.pcm.drain(..samples));
        if self.pcm.is_empty() {
            self.clear();
        }
        out.resize(out.len().next_multiple_of(self.packet), 0.0);
    }

    /// Adds it to `out`, over the length of `out`.
    pub(crate) fn lay_over(&mut self, out: &mut [f32]) {
        let samples = out.len().min(self.pcm.len());
        for (mixed, own) in out.iter_mut().zip(self.pcm.drain(..samples)) {
            *mixed += own;
        }
    }

    /// Ends it: appends one packet that fades to silence, or nothing if nothing waits.
    pub(crate) fn cut(&mut self, out: &mut Vec<f32>) {
        let begin = out.len();
        if !self.is_empty() {
            self.take(1, out);
        }
        let length = (out.len() - begin).max(1) as f32;
        for (i, sample) in out[begin..].iter_mut().enumerate() {
            *sample *= 1.0 - (i + 1) as f32 / length;
        }
        self.clear();
    }

    /// Drops it.
    pub(crate) fn clear(&mut self) {
        self.pcm = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_that_was_sent_or_cut_short_takes_no_memory() {
        let minute = vec![0.5; 8000 * LONGEST_S];
        let ends: [fn(&mut Announcement); 3] = [
            |own| own.take(usize::MAX / own.packet, &mut Vec::new()),
            |own| own.cut(&mut Vec::new()),
            Announcement::clear,
        ];
        for end in ends {
            let mut own = Announcement::new(LineRate::ALL[0]);
            own.push(&minute);
            end(&mut own);
            assert_eq!(own.pcm.capacity(), 0);
        }
    }
}
