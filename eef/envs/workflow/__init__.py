"""Workflows: programs around a weak executor, written turn by turn and run in a sandbox."""
