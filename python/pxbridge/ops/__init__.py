"""What an operator sees: logs, metrics and health."""
