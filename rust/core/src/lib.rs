//! The hot path of pxbridge, as pure state machines.
//!
//! Bytes or samples and the current time go in; bytes or samples and counters come out. Nothing here
//! does I/O or reads a clock, so a test can run an hour of a bad network in a second and replay any fault.
//!
//! Conventions: samples are mono `f32` with full scale at ±1.0 (`i16` only at the edges, see [`codec::pcm`]);
//! time is `now_us`, microseconds on any monotonic clock; rates are in hertz.

pub mod carrier;
pub mod codec;
pub mod downlink;
pub mod dsp;
pub mod error;
pub mod line;
pub(crate) mod phone_path;
pub mod rate;
pub mod tap;
pub mod uplink;
pub mod websocket;

pub use error::{Error, Result};
