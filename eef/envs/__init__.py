"""Environments: the only code that knows an environment by name."""
