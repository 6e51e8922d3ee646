"""The proof of every derivative, as a library and as the table of `check`."""
