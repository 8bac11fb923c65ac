"""Exotel: its messages, and what its flows ask over HTTP."""
