"""Engines as calls see them: the pool, its slots and leases, one session with an engine, and the probe."""
