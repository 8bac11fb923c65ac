//! Resampling between 8, 16 and 24 kHz over rubato.
