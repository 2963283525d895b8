"""A simulated dstack-vmm: a real HTTP server with its wire behaviour, and no virtual machines."""
