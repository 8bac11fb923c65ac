"""Exotel: its messages, and the webhooks of its call flows."""
