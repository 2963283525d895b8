"""The operator's pages: HTML made here, a little JavaScript of our own, nothing from elsewhere."""
