"""Helpers independent of agents: files, records, locks, processes, CPU cores, progress."""
