//! Bytes to samples and back: the engine's wire, Opus in Ogg, resampling, PCM, G.711.

pub mod engine;
pub mod g711;
pub mod ogg;
pub mod opus;
pub mod pcm;
pub mod resample;
pub mod stream;
