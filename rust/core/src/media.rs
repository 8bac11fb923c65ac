//! Exotel's media frame: JSON and base64 to PCM, and back.
