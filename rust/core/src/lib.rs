//! The hot path of pxbridge, as pure state machines.
//!
//! Bytes or samples and the current time go in; bytes or samples and counters come out. Nothing here
//! does I/O or reads a clock, so a test can run an hour of a bad network in a second and replay any fault.
//!
//! Conventions: samples are mono `f32` with full scale at ±1.0 (`i16` only at the edges, see [`pcm`]);
//! time is `now_us`, microseconds on any monotonic clock; rates are in hertz.

mod announce;
mod arrears;
mod backlog;
mod barge_in;
mod drift;
pub mod error;
mod exotel_queue;
mod filler;
mod hold;
pub mod intake;
mod lateness;
pub mod line;
pub mod media;
pub mod noise;
pub mod ogg;
pub mod opus;
mod patience;
pub mod pcm;
pub mod playout;
pub mod resample;
mod span;
pub mod stream;
pub mod tap;
pub mod timescale;
mod trips;
mod voice;

pub use error::{Error, Result};
