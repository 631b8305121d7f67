"""Fakes and helpers of the tests: tiny models, small shops, scripted servers, random grids."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
