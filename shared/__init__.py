"""What a batch and a stop are: settings, tables, state changes, services."""
