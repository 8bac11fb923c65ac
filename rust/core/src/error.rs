//! What core refuses. Bad media is never an error: it is counted by whoever met it.

/// A caller of this crate asked for something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A sample rate outside the supported set.
    #[error("unsupported sample rate {rate_hz} Hz: {expected}")]
    Rate {
        /// What was asked for.
        rate_hz: u32,
        /// What would be right, as text for a person.
        expected: &'static str,
    },
    /// A parameter outside its range.
    #[error("{name} is {value}: {expected}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its value, as text.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// libopus refused; it should not, so the text is libopus' own.
    #[error("opus: {0}")]
    Opus(String),
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
