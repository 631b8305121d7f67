"""Rollouts: from planned states to stored trajectories."""
