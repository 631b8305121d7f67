"""ScienceWorld: thirty elementary science tasks in a text world, run by its Java simulator."""

from eef.envs.scienceworld.env import ScienceWorld
from eef.envs.scienceworld.settings import ScienceWorldSettings

__all__ = ["ScienceWorld", "ScienceWorldSettings"]
