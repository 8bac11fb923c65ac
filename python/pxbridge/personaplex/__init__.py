"""PersonaPlex's side: its wire, a client, and the embedded engine."""
