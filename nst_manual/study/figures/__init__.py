"""The papers' figures: many runs side by side on one sheet."""
