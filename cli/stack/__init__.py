"""The whole stack on one machine: PostgreSQL and Valkey from wheels, and cvmstop's processes."""
