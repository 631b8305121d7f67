"""Base students: small models made from scratch, with their curricula."""
