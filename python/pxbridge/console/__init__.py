"""The operator's HTTP server, on a port of its own: metrics, health, and calls as JSON."""
