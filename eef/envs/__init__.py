"""Environments: the only code that names one."""
