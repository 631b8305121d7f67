"""Policies: models, servers, scripts and people that write the next completion."""
