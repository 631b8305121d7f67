"""ScienceWorld: thirty elementary science tasks in a text world, played in its own Java simulator. See `env.py`."""

from eef.envs.scienceworld.env import ScienceWorld

__all__ = ["ScienceWorld"]
