"""Looking inside: every term's gradient, and the papers' figures."""
