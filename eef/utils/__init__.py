"""Helpers that know nothing of agents: files, locks, processes, CPU cores."""
