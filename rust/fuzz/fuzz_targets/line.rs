//! A whole call, whatever reaches it: messages, an engine's bytes, echoes of marks, pongs and steps of time.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../core/tests/inputs/mod.rs"]
mod inputs;

fuzz_target!(|bytes: &[u8]| inputs::give(bytes));
