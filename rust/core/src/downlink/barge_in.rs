//! Whether the model fell silent because the caller began to speak.
//!
//! PersonaPlex stops by itself when it is interrupted. Then the audio that still waits must not be played. But a model
//! also pauses between sentences, and then its words must be heard to the end. So three conditions must hold: the
//! caller spoke while the model did, the caller still speaks, and the model has paused for longer than it does inside
//! a sentence.

/// A pause of two of the model's frames means that it has fallen silent.
const FELL_SILENT_US: i64 = 160_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct BargeIn {
    /// How long the model has paused since it last spoke; `None` before it spoke.
    silent_us: Option<i64>,
    /// Whether the caller spoke while the model last did.
    overlap: bool,
}

impl BargeIn {
    /// Audio of this length came from the model: speech, or a pause.
    pub(crate) fn heard(&mut self, is_pause: bool, duration_us: i64, caller_speaking: bool) {
        if is_pause {
            self.silent_us = self.silent_us.map(|silent_us| silent_us + duration_us);
        } else {
            self.overlap = caller_speaking;
            self.silent_us = Some(0);
        }
    }

    /// How long the model has paused since it last spoke; `None` before it spoke.
    pub(crate) fn paused_us(&self) -> Option<u64> {
        self.silent_us.map(|us| us.max(0) as u64)
    }

    /// How much of the model's speech still waits, if it need not be heard. `waiting_us`: all that waits, with the
    /// pause after it.
    pub(crate) fn stale_speech_us(&self, waiting_us: i64, caller_speaking: bool) -> Option<i64> {
        let silent_us = self.silent_us.filter(|&silent_us| silent_us >= FELL_SILENT_US)?;
        (self.overlap && caller_speaking).then_some(waiting_us - silent_us)
    }
}
