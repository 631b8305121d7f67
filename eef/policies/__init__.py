"""Policies: whatever writes the next completion."""
