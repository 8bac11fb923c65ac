"""Exotel's side: its messages, the server it dials, and a simulated Exotel."""
