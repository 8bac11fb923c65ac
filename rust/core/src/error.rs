//! Errors of core. Bad media is never an error: its reader counts it.

/// A caller of this crate passed an argument that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A sample rate outside the supported set.
    #[error("unsupported sample rate {rate_hz} Hz: {expected}")]
    Rate {
        /// The rate that was given.
        rate_hz: u32,
        /// The rates that are allowed, as text for a person.
        expected: &'static str,
    },
    /// A parameter outside its range.
    #[error("{name} is {value}: {expected}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its value, as text.
        value: String,
        /// The allowed values.
        expected: &'static str,
    },
    /// libopus refused; it should not, so the text is libopus' own.
    #[error("opus: {0}")]
    Opus(String),
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
