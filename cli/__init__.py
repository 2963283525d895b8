"""How a person arrives: the `cvmstop` command."""
