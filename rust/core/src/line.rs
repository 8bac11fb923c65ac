//! Uplink and Downlink: everything between the two wires, one call per message.
