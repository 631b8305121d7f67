"""Importers: trajectories recorded by other tools, replayed and verified."""
