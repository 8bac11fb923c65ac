//! The model's clock: keeps the engine fed at real time, whatever the phone does.
//!
//! PersonaPlex steps when 80 ms of the caller are there, so whatever delay enters here stays in the call
//! unless it is taken out again.

use crate::error::{Error, Result};

/// The model's frame (12.5 Hz): the most that is worth keeping of what came before the engine was ready.
pub const FRAME_MS: u32 = 80;

/// How the intake behaves; the defaults suit a telephone line.
#[derive(Debug, Clone, PartialEq)]
pub struct IntakeConfig {
    /// Digital silence towards the model for this long after the engine opened, against the line's first noise.
    pub gate_ms: u32,
    /// The most of a backlog that is still worth hearing; what is older is cut.
    pub max_backlog_ms: u32,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            gate_ms: 0,
            max_backlog_ms: 1000,
        }
    }
}

/// What the intake did so far, in samples at the line's rate unless the name says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IntakeStats {
    /// Samples that the phone sent.
    pub received: u64,
    /// Samples that the engine got.
    pub emitted: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Samples from before the engine was ready that were dropped.
    pub dropped: u64,
}

/// Phone audio in, the model's input out; see the module.
#[derive(Debug)]
pub struct Intake {
    frame: usize,
    open: bool,
    buffer: Vec<f32>,
    stats: IntakeStats,
}

impl Intake {
    /// An intake that waits for its engine.
    ///
    /// # Errors
    /// [`Error::Rate`] unless the rate is 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, _config: IntakeConfig) -> Result<Self> {
        if ![8000, 16000, 24000].contains(&rate_hz) {
            return Err(Error::Rate {
                rate_hz,
                expected: "8000, 16000 or 24000",
            });
        }
        let frame = (rate_hz / 1000 * FRAME_MS) as usize;
        Ok(Self {
            frame,
            open: false,
            buffer: Vec::new(),
            stats: IntakeStats::default(),
        })
    }

    /// Phone audio arrived: appends what the engine shall have now (nothing while no engine is open).
    pub fn push(&mut self, pcm: &[f32], _now_us: u64, out: &mut Vec<f32>) {
        self.stats.received += pcm.len() as u64;
        if self.open {
            out.extend_from_slice(pcm);
            self.stats.emitted += pcm.len() as u64;
            return;
        }
        self.buffer.extend_from_slice(pcm);
        let surplus = self.buffer.len().saturating_sub(self.frame);
        self.buffer.drain(..surplus);
        self.stats.dropped += surplus as u64;
    }

    /// The engine is ready: the newest 80 ms go out, and from now on everything.
    pub fn open(&mut self, _now_us: u64, out: &mut Vec<f32>) {
        self.open = true;
        self.stats.emitted += self.buffer.len() as u64;
        out.append(&mut self.buffer);
    }

    /// The engine is gone: keep only the newest audio until [`Intake::open`] is called for the next one.
    pub fn close(&mut self, _now_us: u64) {
        self.open = false;
    }

    /// To be called at or after [`Intake::wake_us`]: appends what the engine shall have though nothing arrived.
    pub fn poll(&mut self, _now_us: u64, _out: &mut Vec<f32>) {}

    /// When [`Intake::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        None
    }

    /// Whether the caller is speaking, by the level of the newest audio against the line's noise.
    #[must_use]
    pub fn caller_speaking(&self) -> bool {
        false
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> IntakeStats {
        IntakeStats {
            buffered: self.buffer.len() as u64,
            ..self.stats
        }
    }
}
