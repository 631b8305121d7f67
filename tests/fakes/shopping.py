"""Synthetic shops for tests, an oracle buyer, and episodes played in batches."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from eef.envs.webshop import WebShop
from eef.envs.webshop.expert import View
from eef.envs.webshop.goals import Goal
from eef.policy import GREEDY, Policy
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed
from tests.fakes.small_shop import make_shop


def open_shop(
    goals: str = "human", *, compat: bool | None = None, per_page: int = 4, **settings: Any
) -> WebShop:
    """A synthetic shop; `settings` go to its catalog."""
    return make_shop(
        goals=goals,
        prompt="none",
        tagger="words",
        products_per_page=per_page,
        compat=compat,
        synthetic={"products": 200, **settings},
    )


def rank(env: WebShop, goal: Goal) -> int:
    """Rank of a goal's product among the hits of the expert's query, from 1; 0 if not found."""
    hits = [asin for asin, _ in env.search(query(env, goal))]
    return hits.index(goal.asin) + 1 if goal.asin in hits else 0


def query(env: WebShop, goal: Goal) -> str:
    """The expert's search query for a goal."""
    env.reset(goal.index)
    return View(env.shop, env.rules, env.session).query


def buy(env: WebShop, goal: Goal) -> float:
    """The reward for buying a goal's product with its options, through the shop's pages."""
    place = rank(env, goal)
    env.reset(goal.index)
    env.step(f"search[{query(env, goal)}]")
    for _ in range((place - 1) // env.rules.products_per_page):
        env.step("click[next >]")
    env.step(f"click[{goal.asin}]")
    for option in goal.options:
        env.step(f"click[{option if isinstance(option, str) else option[1]}]")
    return env.step("click[buy now]").reward


def play_all(
    env: WebShop,
    policy: Policy,
    tasks: int = 100,
    *,
    limit: int = 60,
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, Trajectory]:
    """The first training tasks, played by a policy: task → trajectory."""
    specs = [
        RolloutSpec(task.id, task, None, derive_seed(seed, task.id), 0)
        for task in env.tasks("train").head(tasks)
    ]
    played = play(
        specs,
        env=env,
        policy=policy,
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=GREEDY, step_limit=limit, batch_size=batch_size),
    )
    return {trajectory.task: trajectory for trajectory in played}


def win_rate(played: dict[str, Trajectory]) -> float:
    return fmean(trajectory.success for trajectory in played.values())


def mean_of(played: dict[str, Trajectory], action: str) -> float:
    """Mean number of times that an episode contains an action."""
    return fmean(sum(step.action == action for step in item.steps) for item in played.values())
