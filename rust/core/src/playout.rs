//! The caller's delay: bounded, whatever the engine does.
