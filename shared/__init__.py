"""What a batch and a stop are: settings, tables, state changes, services."""

__version__ = "0.1.0"
