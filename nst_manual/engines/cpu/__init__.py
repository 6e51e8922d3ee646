"""The CPU's engine."""
