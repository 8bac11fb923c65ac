"""The process: everything is built here, and nothing below imports this."""
