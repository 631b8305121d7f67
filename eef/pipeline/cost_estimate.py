"""Estimated cost of an expert behind a server, before any request is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eef.chat import build_conversation
from eef.env import Env
from eef.policies.settings import ApiSettings
from eef.policy import GREEDY, Policy, Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.task import TaskSet
from eef.trajectory import Trajectory, TrajectorySet

CHARACTERS = 4  # per token, a rule of thumb for English
_SAMPLE = 8  # tasks played for the estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Requests, tokens and cost of playing `tasks` tasks. `basis` states the assumption."""

    tasks: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    basis: str


def estimate_cost(
    env: Env,
    tasks: TaskSet,
    guide: Policy | None,
    *,
    settings: ApiSettings,
    sampling: Sampling,
    step_limit: int,
) -> tuple[Estimate, Estimate]:
    """(likely, highest) cost; each request sends the whole conversation so far.

    The likely cost is that of the first few tasks as played by `guide`. Without a guide it equals
    the highest: every episode reaches the step limit, with observations like the longest one seen.
    """
    sample = tasks.head(_SAMPLE)
    episodes = list(_episodes(env, sample, guide, step_limit)) if guide else []
    seen = [len(step.observation) for episode in episodes for step in episode.steps]
    seen = seen or [len(env.reset(task)) for task in sample]
    longest = _tokens(len(env.prompt)) * step_limit + sum(
        _tokens(max(seen)) * turn + sampling.max_tokens * (turn - 1)
        for turn in range(1, step_limit + 1)
    )
    count, limit = len(tasks), step_limit
    highest = _priced(
        count, count * limit, count * longest, count * limit * sampling.max_tokens, settings, ""
    )
    if not episodes:
        return highest, highest
    share = count / len(episodes)
    requests = share * sum(len(episode.steps) for episode in episodes)
    prompts = share * sum(_prompts(env, episode) for episode in episodes)
    written = share * sum(
        _tokens(len(step.completion)) for episode in episodes for step in episode.steps
    )
    basis = (
        f"likely: {len(episodes)} of the tasks as played by the scripted expert, "
        f"{CHARACTERS} characters per token"
    )
    likely = _priced(count, round(requests), round(prompts), round(written), settings, basis)
    return likely, highest


def _episodes(env: Env, sample: TaskSet, guide: Policy, step_limit: int) -> Iterable[Trajectory]:
    planned = [RolloutSpec(task.id, task, None, number, 0) for number, task in enumerate(sample)]
    return play(
        planned,
        env=env,
        policy=guide,
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(
            sampling=GREEDY, step_limit=step_limit, batch_size=max(1, len(planned))
        ),
    )


def _prompts(env: Env, episode: Trajectory) -> int:
    """Prompt tokens of all turns of an episode."""
    steps = episode.steps
    conversations = (
        build_conversation(env.prompt, steps[:t], steps[t].observation) for t in range(len(steps))
    )
    return sum(
        _tokens(sum(len(message["content"]) for message in conversation))
        for conversation in conversations
    )


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS)


def _priced(
    tasks: int, requests: int, prompts: int, written: int, settings: ApiSettings, basis: str
) -> Estimate:
    cost = (prompts * settings.prompt_price + written * settings.completion_price) / 1e6
    return Estimate(
        tasks=tasks,
        requests=requests,
        prompt_tokens=prompts,
        completion_tokens=written,
        cost=cost,
        basis=basis
        or "every episode reaches the step limit, with observations like the longest seen",
    )
