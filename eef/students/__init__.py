"""Base students: small models trained from scratch, each on a curriculum for one environment."""
