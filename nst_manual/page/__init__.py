"""The local page: a server that queues runs and shows them, and the feed that a run writes for it."""
