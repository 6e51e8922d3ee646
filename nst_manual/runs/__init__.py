"""One run: what goes in, what watches it, what it writes, and what it ends with."""
