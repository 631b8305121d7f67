"""Methods: what to roll out and what to train on. Pure functions of recorded trajectories."""
