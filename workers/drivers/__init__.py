"""How each kind of VM host is spoken to."""
