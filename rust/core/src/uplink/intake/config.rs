//! The intake's configuration and its counters.

/// How the intake behaves; the defaults suit a telephone line.
#[derive(Debug, Clone, PartialEq)]
pub struct IntakeConfig {
    /// This much of the phone's first audio is replaced by digital silence: a line cracks when it opens.
    pub gate_ms: u32,
    /// The longest backlog that is worth hearing; older audio is cut.
    pub max_backlog_ms: u32,
    /// Seed of the comfort noise: the same seed and calls give the same samples.
    pub seed: u64,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            gate_ms: 200,
            max_backlog_ms: 1000,
            seed: 1,
        }
    }
}

/// What the intake did so far, in samples at the line's rate unless the name says otherwise.
///
/// `received + inserted = emitted + dropped + withheld + removed + cut + buffered`, where `removed` is from pauses
/// and from speech.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IntakeStats {
    /// Samples that the phone sent.
    pub received: u64,
    /// Samples that the engine got.
    pub emitted: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Samples dropped because no engine was ready.
    pub dropped: u64,
    /// Samples withheld from an engine that did not answer.
    pub withheld: u64,
    /// Samples that the engine did not get because it was behind: removed, cut, or noise that was not inserted.
    pub shed: u64,
    /// How often the engine was behind for so long that audio was shed.
    pub slow: u64,
    /// How often the engine did not answer for so long that audio was withheld from it.
    pub holds: u64,
    /// Samples at the opening of the line that were replaced by silence.
    pub gated: u64,
    /// Comfort noise inserted in place of missing audio.
    pub inserted: u64,
    /// Removed from pauses again.
    pub removed_in_pauses: u64,
    /// Removed from speech again, by making it faster.
    pub removed_in_speech: u64,
    /// Cut because it was too old, or would have been when the engine got to it.
    pub cut: u64,
    /// How often the phone stalled.
    pub stalls: u64,
    /// The longest stall, from when the audio was due.
    pub longest_stall_us: u64,
    /// How late the phone's audio frequently is, against its earliest.
    pub relative_delay_us: u64,
    /// How late the phone may be before it counts as stalled.
    pub wait_us: u64,
    /// How long a sample that arrives now waits here.
    pub delay_us: u64,
    /// Length of the phone's chunk: its oldest sample waited that long at the phone.
    pub chunk_us: u64,
    /// By how many parts per million the phone's clock is faster than ours; `None` before a minute has passed.
    pub drift_ppm: Option<f32>,
}
