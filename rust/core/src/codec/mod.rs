//! Bytes to samples and back: Opus in Ogg, resampling, PCM.

pub mod ogg;
pub mod opus;
pub mod pcm;
pub mod resample;
pub mod stream;
