"""The sections of the run page."""
