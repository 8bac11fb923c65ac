"""The pool of engines, its slots and leases, the session with an engine, and the health probe."""
