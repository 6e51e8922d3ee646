"""The GPU's engine."""
