"""What can be done to batches, stops and the inventory. Nothing here commits."""
