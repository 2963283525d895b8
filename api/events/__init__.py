"""Who follows batches, and how they hear of each change: server-sent events."""
