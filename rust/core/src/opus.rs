//! Opus packets: the only file that knows audiopus.
