//! The caller's delay: bounded, whatever the engine does.
//!
//! Exotel's own queue is the jitter buffer: audio is sent as it arrives, in whole 20 ms packets, and what
//! Exotel still holds is modelled from what was sent and when. The surplus beyond a bound waits here.

use crate::error::{Error, Result};

/// Exotel plays packets of 20 ms; a payload that is no multiple of one costs a hole.
pub const PACKET_MS: u32 = 20;

/// What an Exotel account demands of our payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlayoutProfile {
    /// Payloads as the engine makes them: mostly one frame of 80 ms.
    #[default]
    Standard,
    /// Payloads of at least 200 ms (3,200 bytes at 8 kHz), Exotel's documented minimum.
    Strict,
    /// The least delay: smaller margins, at the price of more concealment.
    LowDelay,
}

/// How the playout behaves; the defaults suit Exotel.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayoutConfig {
    /// What the account demands of payloads.
    pub profile: PlayoutProfile,
    /// The most that is sent ahead of its time.
    pub max_ahead_ms: u32,
    /// The most of a backlog that is still worth hearing; what is older is cut.
    pub max_backlog_ms: u32,
    /// With more than this queued when the model falls silent for the caller, the queue is flushed.
    pub barge_in_ms: u32,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        Self {
            profile: PlayoutProfile::Standard,
            max_ahead_ms: 300,
            max_backlog_ms: 1000,
            barge_in_ms: 120,
        }
    }
}

/// What to do with what a call of [`Playout::push`] or [`Playout::poll`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send it (it may be nothing).
    Send,
    /// The caller barged in: send `clear` first, then it.
    ClearThenSend,
}

/// A mark to send right after the media; its name must carry both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many flushes came before it.
    pub epoch: u32,
    /// Its number within the call.
    pub number: u32,
}

/// What the playout did so far, in samples at the line's rate unless the name says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlayoutStats {
    /// Samples that the engine sent.
    pub received: u64,
    /// Samples that were sent to the phone.
    pub sent: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Samples dropped by flushes.
    pub flushed: u64,
    /// What Exotel still holds, by the model, at the time of the last call.
    pub exotel_us: u64,
}

/// Engine audio in, whole packets for the phone out; see the module.
#[derive(Debug)]
pub struct Playout {
    rate_hz: u32,
    packet: usize,
    config: PlayoutConfig,
    queue: Vec<f32>,
    /// When Exotel's queue runs dry if nothing more is sent.
    dry_us: u64,
    stats: PlayoutStats,
}

impl Playout {
    /// A playout that has sent nothing.
    ///
    /// # Errors
    /// [`Error::Rate`] unless the rate is 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, config: PlayoutConfig) -> Result<Self> {
        if ![8000, 16000, 24000].contains(&rate_hz) {
            return Err(Error::Rate {
                rate_hz,
                expected: "8000, 16000 or 24000",
            });
        }
        let packet = (rate_hz / 1000 * PACKET_MS) as usize;
        Ok(Self {
            rate_hz,
            packet,
            config,
            queue: Vec::new(),
            dry_us: 0,
            stats: PlayoutStats::default(),
        })
    }

    /// The phone's chunk size, as seen: tells the beat in which the engine's frames will come.
    pub fn expect_chunk(&mut self, _samples: usize) {}

    /// Engine audio arrived: appends what shall be sent now, always whole packets.
    pub fn push(&mut self, pcm: &[f32], now_us: u64, _caller_speaking: bool, out: &mut Vec<f32>) -> Step {
        self.stats.received += pcm.len() as u64;
        self.queue.extend_from_slice(pcm);
        self.send(now_us, out);
        Step::Send
    }

    /// To be called at or after [`Playout::wake_us`]: sends what waited, or bridges a hole.
    pub fn poll(
        &mut self,
        now_us: u64,
        _conceal: &mut dyn FnMut(usize, &mut Vec<f32>),
        out: &mut Vec<f32>,
    ) -> Step {
        self.send(now_us, out);
        Step::Send
    }

    /// When [`Playout::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        let ahead_us = u64::from(self.config.max_ahead_ms) * 1000;
        (self.queue.len() >= self.packet).then(|| self.dry_us.saturating_sub(ahead_us / 2))
    }

    /// Drops everything. True: Exotel still holds audio, a `clear` must be sent.
    pub fn flush(&mut self, now_us: u64) -> bool {
        self.stats.flushed += self.queue.len() as u64;
        self.queue.clear();
        let held = self.dry_us > now_us;
        self.dry_us = now_us;
        held
    }

    /// A mark that is due after what was just sent, if any.
    pub fn take_mark(&mut self, _now_us: u64) -> Option<Mark> {
        None
    }

    /// The phone echoed a mark: what was sent before it has been played.
    pub fn marked(&mut self, _mark: Mark, _now_us: u64) {}

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> PlayoutStats {
        PlayoutStats {
            buffered: self.queue.len() as u64,
            ..self.stats
        }
    }

    fn send(&mut self, now_us: u64, out: &mut Vec<f32>) {
        let packet_us = u64::from(PACKET_MS) * 1000;
        let limit_us = now_us + u64::from(self.config.max_ahead_ms) * 1000;
        let start_us = self.dry_us.max(now_us);
        let room = limit_us.saturating_sub(start_us) / packet_us;
        let packets = (self.queue.len() / self.packet).min(room as usize);
        let samples = packets * self.packet;
        out.extend(self.queue.drain(..samples));
        self.stats.sent += samples as u64;
        if packets > 0 {
            self.dry_us = start_us + samples as u64 * 1_000_000 / u64::from(self.rate_hz);
        }
        self.stats.exotel_us = self.dry_us.saturating_sub(now_us);
    }
}
