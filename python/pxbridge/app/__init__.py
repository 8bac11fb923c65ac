"""The process. Everything is built here, and nothing below imports it."""
