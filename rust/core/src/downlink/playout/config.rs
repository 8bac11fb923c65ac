//! The playout's configuration and its counters.

use crate::error::{Error, Result};

/// What a carrier's account demands of our payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlayoutProfile {
    /// Payloads as they come from the engine: mostly one frame of 80 ms.
    #[default]
    Standard,
    /// Payloads of at least 3,200 bytes, which is Exotel's documented minimum. At 8 kHz that is 200 ms, which takes
    /// three frames of 80 ms: 160 ms more delay than `Standard`.
    Strict,
    /// Occasional late audio is concealed instead of buffered for, and margins are smaller. On a quiet line that
    /// saves 5 ms (a packet on a quarter of all lines, as the phone plays on a grid of packets). Where a TCP packet
    /// is lost once in a while it saves 20 to 100 ms, and makes two to six times as many gaps.
    LowDelay,
}

impl PlayoutProfile {
    /// The profile of this name: `standard`, `strict` or `low-delay`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is not known.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "standard" => Ok(Self::Standard),
            "strict" => Ok(Self::Strict),
            "low-delay" => Ok(Self::LowDelay),
            _ => Err(Error::Parameter {
                name: "profile",
                value: format!("'{name}'"),
                expected: "expected 'standard', 'strict' or 'low-delay'",
            }),
        }
    }

    /// How much earlier than needed audio should be at the phone's side: the schedulers of both machines may delay it.
    pub(super) fn margin_us(self) -> i64 {
        match self {
            Self::Standard | Self::Strict => 8_000,
            Self::LowDelay => 3_000,
        }
    }

    /// A gap is filled this long before the phone is drained: the fill has to get there.
    pub(super) fn safety_us(self) -> u64 {
        match self {
            Self::Standard | Self::Strict => 5_000,
            Self::LowDelay => 2_000,
        }
    }

    /// How much of the margin may be used up before a pause is made longer. A clock that drifts uses it up soon, and
    /// one millisecond later speech would have to be concealed.
    pub(super) fn reserve_us(self) -> i64 {
        self.margin_us() - self.safety_us() as i64 - 1_000
    }

    /// Whether delays that are rare are buffered for.
    pub(super) fn covers_rare_delays(self) -> bool {
        self != Self::LowDelay
    }
}

/// How the playout behaves; the defaults suit a telephone carrier.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayoutConfig {
    /// What the account demands of payloads.
    pub profile: PlayoutProfile,
    /// At most this much is sent ahead of its time.
    pub max_ahead_ms: u32,
    /// The longest backlog that is worth hearing; older audio is cut.
    pub max_backlog_ms: u32,
    /// If the model falls silent for the caller while more speech than this is queued, the queue is flushed.
    pub barge_in_ms: u32,
    /// Seed of the comfort noise: the same seed and calls give the same samples.
    pub seed: u64,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        Self {
            profile: PlayoutProfile::Standard,
            max_ahead_ms: 500,
            max_backlog_ms: 1000,
            barge_in_ms: 120,
            seed: 2,
        }
    }
}

/// What the playout did so far, in samples at the line's rate unless the name says otherwise.
///
/// `received + padded + stretched + concealed + noise = sent + buffered + removed + cut + flushed`, where `removed`
/// is from pauses and from speech.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlayoutStats {
    /// Samples that the engine sent.
    pub received: u64,
    /// Samples that were sent to the phone.
    pub sent: u64,
    /// Samples waiting here.
    pub buffered: u64,
    /// Added before an engine's first audio and after its last, to fill packets: silence, or its last sound, fading.
    pub padded: u64,
    /// Inserted into pauses, or into speech where the path to the phone jitters.
    pub stretched: u64,
    /// Concealment by libopus, in gaps.
    pub concealed: u64,
    /// Comfort noise, in longer gaps.
    pub noise: u64,
    /// Removed from pauses.
    pub removed_in_pauses: u64,
    /// Removed from speech, by making it faster.
    pub removed_in_speech: u64,
    /// Cut because it was too old.
    pub cut: u64,
    /// Samples dropped here by flushes. How much the phone's side dropped is not known.
    pub flushed: u64,
    /// Flushes.
    pub flushes: u64,
    /// Gaps: how often the engine's audio was missing.
    pub holes: u64,
    /// The longest gap.
    pub longest_hole_us: u64,
    /// Target delay: how much later than the earliest frame allows audio is to be heard.
    pub target_us: u64,
    /// How late the engine's frames frequently are, against the earliest.
    pub relative_delay_us: u64,
    /// How much audio waits here.
    pub queued_us: u64,
    /// How much audio the phone's side held when audio was last sent, by estimate.
    pub remote_us: u64,
}
