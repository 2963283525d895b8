"""Enums and frozen values of the domain; no I/O."""
