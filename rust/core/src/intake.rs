//! The model's clock: keeps the engine fed at real time, whatever the phone does.
