"""eef: tune LLM agents from expert trajectories, including the failed ones.

The names below are the public API. Each is imported when it is first used, so `import eef` is fast
and needs none of the optional dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eef.analysis.results import read_results
    from eef.env import Env
    from eef.env_check import check_env
    from eef.envs.registry import make_env, make_expert
    from eef.errors import EefError
    from eef.methods.base import Method
    from eef.pipeline.pipeline import Pipeline
    from eef.pipeline.recipe import Recipe, load_recipe
    from eef.pipeline.run_directory import RunDirectory
    from eef.policy import Policy
    from eef.task import Task
    from eef.trajectory import StateRef, Trajectory, TrajectorySet

__version__ = "0.1.0"

__all__ = [
    "EefError",
    "Env",
    "Method",
    "Pipeline",
    "Policy",
    "Recipe",
    "RunDirectory",
    "StateRef",
    "Task",
    "Trajectory",
    "TrajectorySet",
    "check_env",
    "load_recipe",
    "make_env",
    "make_expert",
    "read_results",
]

_MODULES = {
    "EefError": "eef.errors",
    "Env": "eef.env",
    "Method": "eef.methods.base",
    "Pipeline": "eef.pipeline.pipeline",
    "Policy": "eef.policy",
    "Recipe": "eef.pipeline.recipe",
    "RunDirectory": "eef.pipeline.run_directory",
    "StateRef": "eef.trajectory",
    "Task": "eef.task",
    "Trajectory": "eef.trajectory",
    "TrajectorySet": "eef.trajectory",
    "check_env": "eef.env_check",
    "load_recipe": "eef.pipeline.recipe",
    "make_env": "eef.envs.registry",
    "make_expert": "eef.envs.registry",
    "read_results": "eef.analysis.results",
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
