"""The papers' figures: a series of runs, drawn on one labelled sheet, with their numbers."""
