//! How a carrier's media, marks and clears are read and written. Nothing else in core knows a carrier.

pub mod exotel;
