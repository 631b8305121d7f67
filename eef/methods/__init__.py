"""Methods: what to explore and what to train on, as pure functions of recorded trajectories."""
