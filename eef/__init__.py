"""eef: tune LLM agents from expert trajectories, the failed ones included."""

__version__ = "0.1.0"
