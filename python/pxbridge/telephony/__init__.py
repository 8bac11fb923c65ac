"""The port that carriers dial, its access control, and the interface of a carrier."""
