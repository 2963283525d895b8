"""How a request arrives: the HTTP API."""
