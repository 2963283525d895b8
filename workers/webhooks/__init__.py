"""Webhooks: events are written down for each endpoint, and sent until it has taken them."""
