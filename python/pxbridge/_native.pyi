"""The Rust core: samples, packets and pages. `pxbridge.audio` is its public face."""

__version__: str
OPTIMISED: bool
