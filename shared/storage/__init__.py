"""Every SELECT and UPDATE, as verbs. Nothing here commits."""
