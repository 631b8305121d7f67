"""The environment protocol: the toy environment keeps it, and `check_env` finds violations."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.env import FORMAT_ERROR, Env, StepResult, execute
from eef.env_check import check_env
from eef.envs.toy import Corridor, ToyEnv, ToySettings, make_toy_expert, toy_player
from eef.errors import EnvError, ReplayMismatch
from eef.policy import GREEDY
from eef.replay import replay
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.task import Task, TaskSet
from eef.trajectory import Author, PathStep, Step, TrajectorySet

MOVES = ["left", "right", "open", "take blue", "take green", "take red", "take white", "", "dance"]


def record(env: ToyEnv, index: int, actions: list[str]) -> list[PathStep]:
    """The path of these actions, up to the end of the episode."""
    observation = env.reset(env.tasks("train")[index])
    path = []
    for action in actions:
        path.append(
            PathStep(
                Step(observation=observation, completion="", action=action),
                "t",
                Author("expert", "e"),
            )
        )
        result = execute(env, action)
        observation = result.observation
        if result.terminated:
            break
    return path


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_toy_environment_keeps_the_protocol(split):
    env = ToyEnv()
    assert isinstance(env, Env)
    found = check_env(env, split=split, actions=["take red", *MOVES, "right", "right"])
    assert len(found.passed) > 10
    assert found.wins == 0


def test_the_check_plays_the_expert_and_random_episodes():
    env = ToyEnv()
    alone = check_env(env)
    guided = check_env(env, expert=make_toy_expert(env, "flawless"))
    assert alone == check_env(env), "the same seed plays the same episodes"
    assert alone != check_env(env, seed=1)
    assert guided.wins >= 3
    assert guided.episodes > alone.episodes > check_env(env, episodes=0).episodes
    assert {"left", "right", "open"} <= set(re.findall("`(left|right|open)`", env.prompt))
    assert alone.answers > 10, "actions named by the prompt have effects"
    assert str(guided).startswith(f"{len(guided.passed)} checks passed: ")


def test_the_splits_share_no_task():
    env = ToyEnv(ToySettings(tasks_per_split=7))
    train, test = env.tasks("train"), env.tasks("test")
    assert len(train) == len(test) == 7
    assert {task.id for task in train}.isdisjoint(task.id for task in test)
    assert all(task.id == f"toy/{task.index}" for task in train)
    with pytest.raises(EnvError, match="'dev'"):
        env.tasks("dev")


def test_an_episode_of_the_toy_environment():
    env = ToyEnv()
    env.restore(Corridor((frozenset({"red", "blue"}), frozenset()), wanted="red"))
    assert env.step("open").observation.startswith("Nothing happens.")  # no key, no chest
    assert env.step("take white").observation.startswith("Nothing happens.")
    assert "Keys here: red. You hold: the blue key." in env.step("take blue").observation
    assert "Keys here: blue. You hold: the red key." in env.step("take red").observation
    assert env.step("left").observation.startswith("Nothing happens. Room 1 of 2.")
    in_room_1 = env.snapshot()
    at_the_chest = "Room 2 of 2 with the chest. Keys here: none. You hold: the red key."
    assert env.step("RIGHT ").observation == at_the_chest
    assert env.step("open") == StepResult("The chest opens.", 1.0, True)
    assert env.step("open") == StepResult("The episode is over.", 0.0, True)
    env.restore(in_room_1)
    env.step("take blue")
    env.step("right")
    assert env.step("open") == StepResult("The blue key breaks off in the lock.", 0.5, True)
    assert env.score([]) == 0.0
    assert env.score([0.0, 0.5]) == 0.5


def test_an_episode_must_have_started():
    with pytest.raises(EnvError, match="no episode"):
        ToyEnv().step("left")
    with pytest.raises(EnvError, match="no episode"):
        ToyEnv().snapshot()


@pytest.mark.parametrize(
    ("skill", "least", "most"), [(1.0, 1.0, 1.0), (0.7, 0.4, 0.9), (0.0, 0.0, 0.1)]
)
def test_policies_win_according_to_their_skill(skill, least, most):
    env = ToyEnv()
    specs = [RolloutSpec(task.id, task, None, task.index, 0) for task in env.tasks("train")]
    played = play(
        specs,
        env=env,
        policy=toy_player(Author("expert", "toy"), skill),
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=GREEDY, step_limit=env.step_limit, batch_size=8),
    )
    wins = Counter(trajectory.success for trajectory in played)
    assert least <= wins[True] / len(specs) <= most


@given(st.lists(st.sampled_from(MOVES), max_size=10), st.integers(0, 20))
def test_replaying_a_path_restores_its_state(actions, index):
    env = ToyEnv()
    path = record(env, index, actions)
    state = env.snapshot()
    again = env.clone()
    replay(again, env.tasks("train")[index], path)
    assert again.snapshot() == state


def test_replay_returns_the_last_result():
    env = ToyEnv()
    task = env.tasks("train")[0]
    assert replay(env, task, []).result == StepResult(env.reset(task), 0.0, False)
    assert replay(env, task, record(env, 0, ["right", ""])).result.observation == FORMAT_ERROR


@given(st.integers(0, 3))
def test_replay_names_the_step_that_differs(at):
    env = ToyEnv()
    path = record(env, 0, ["right", "left", "right", "left"])
    path[at] = replace(path[at], step=replace(path[at].step, observation="something else"))
    with pytest.raises(ReplayMismatch, match=f"step {at}") as caught:
        replay(env, env.tasks("train")[0], path)
    assert caught.value.step == at
    assert caught.value.expected == "something else"
    assert "Room" in caught.value.observed


def test_replay_stops_if_the_episode_ends_too_early():
    env = ToyEnv()
    path = record(env, 0, ["right"])
    ending = ToyEnv()
    ending.step = lambda action: StepResult("over", 0.0, True)
    with pytest.raises(ReplayMismatch, match="ended before recorded step 1"):
        replay(ending, env.tasks("train")[0], [*path, *path])


class Moody(ToyEnv):
    """Gives another answer each time."""

    asked = 0

    def step(self, action: str) -> StepResult:
        Moody.asked += 1
        return StepResult(f"answer {Moody.asked}", 0.0, False)


class Doubled(ToyEnv):
    def tasks(self, split: str) -> TaskSet:
        return TaskSet.of([*super().tasks(split), *super().tasks(split)])


class Silent(ToyEnv):
    def reset(self, task):
        super().reset(task)
        return ""


class Generous(ToyEnv):
    def score(self, rewards):
        return 2.0


class Forgetful(ToyEnv):
    def restore(self, snapshot):
        """Restores nothing."""


class Empty(ToyEnv):
    def tasks(self, split: str) -> TaskSet:
        return TaskSet.of([])


class Sealed(ToyEnv):
    """Its snapshots cannot be restored into a clone."""

    def snapshot(self):
        return (id(self), super().snapshot())

    def restore(self, snapshot):
        owner, now = snapshot
        super().restore(now if owner == id(self) else replace(now, over=True))


class Changeling(ToyEnv):
    def fingerprint(self):
        return {"self": id(self)}


class Lucky(ToyEnv):
    """Its valid actions have random observations; others are answered alike."""

    def step(self, action: str) -> StepResult:
        result = super().step(action)
        if result.observation.startswith("Nothing happens."):
            return result
        return replace(result, observation=f"{result.observation} {random.random()}")


class Paying(ToyEnv):
    """Pays 7 for a solved task."""

    def step(self, action: str) -> StepResult:
        result = super().step(action)
        return replace(result, reward=7 * result.reward)


class Advancing(ToyEnv):
    """Pays 0.4 for each step to the right, so the sum exceeds 1 before the end."""

    def step(self, action: str) -> StepResult:
        return replace(super().step(action), reward=0.4 * (action == "right"))


class Fragile(ToyEnv):
    def step(self, action: str) -> StepResult:
        if action == "open":
            raise ValueError("no chest")
        return super().step(action)


class Tupled(ToyEnv):
    def step(self, action: str):
        return ("a room", 0.0, False)


class Nothing(ToyEnv):
    def step(self, action: str):
        return StepResult("a room", float("nan"), False)


class Numberless(ToyEnv):
    def step(self, action: str) -> StepResult:
        return StepResult("a room", None, False)


class Endless(ToyEnv):
    def step(self, action: str) -> StepResult:
        return StepResult("a room", 0.0, None)


class Worded(ToyEnv):
    def fingerprint(self):
        return {**super().fingerprint(), "data": Path("data")}


class OneTable(ToyEnv):
    """Clones have episodes of their own, but the table behind them is one."""

    def __init__(self, settings=None) -> None:
        super().__init__(settings)
        self.table: dict[str, int] = {}

    def reset(self, task: Task) -> str:
        self.table.clear()
        self.table["task"] = task.index
        return super().reset(task)

    def step(self, action: str) -> StepResult:
        return replace(super().step(action), observation=f"{self.table}")


class Shared(ToyEnv):
    """All clones play one episode."""

    states: ClassVar[list[Corridor | None]] = []

    @property
    def _now(self):
        return self.states[-1] if self.states else None

    @_now.setter
    def _now(self, state):
        self.states.append(state)

    def step(self, action: str) -> StepResult:
        return replace(super().step(action), observation=f"{len(self.states)} moves")


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (Moody(), "the same actions give the same episode .*step 0 .*gave 'answer 1', then"),
        (Shared(), "the same actions give the same episode"),
        (Fragile(), "`step` raised an exception for the action 'open' .*ValueError: no chest"),
        (Tupled(), "step returns a `StepResult`"),
        (Nothing(), "step returns a `StepResult` of a string, a finite reward"),
        (Numberless(), "step returns a `StepResult` of a string, a finite reward"),
        (Endless(), "step returns a `StepResult` of a string, a finite reward and a boolean"),
        (Worded(), "the fingerprint is a JSON object; Object of type PosixPath"),
        (OneTable(), "a clone plays the same episode while the original plays another"),
        (Advancing(), r"the score is in \[0, 1\]; after step \d+ \(`right`\) it is 1.2"),
        (Doubled(), "task ids are unique"),
        (Silent(), "reset returns the first observation"),
        (Generous(), r"the score is in \[0, 1\]"),
        (Forgetful(), "restore before step 0 continues the same episode"),
        (Sealed(), "a clone's restore before step 0 continues the same episode"),
        (Empty(), "split 'train' has tasks"),
        (Changeling(), "a clone has the same fingerprint"),
    ],
)
def test_check_env_names_the_violation(env, what):
    with pytest.raises(EnvError, match=f"environment 'toy' breaks the protocol: .*{what}"):
        check_env(env, actions=["right", "take red", "right", "right", "open"])


def test_the_check_finds_what_only_valid_actions_show():
    """The expert and the prompt provide such actions; none of them is named by the caller."""
    expert = make_toy_expert(ToyEnv(), "flawless")
    with pytest.raises(EnvError, match="the same actions give the same episode"):
        check_env(Lucky())
    with pytest.raises(EnvError, match=r"the score is in \[0, 1\].* it is 7, for the rewards"):
        check_env(Paying(), expert=expert)
    with pytest.raises(EnvError, match="'open'") as caught:
        check_env(Fragile(), expert=expert)
    assert "answer every action" in caught.value.hint


def test_the_check_compares_with_a_clone():
    class Numbered(ToyEnv):
        clones = 0

        def clone(self):
            copy = super().clone()
            copy.clones = 1
            return copy

        def step(self, action: str) -> StepResult:
            return replace(super().step(action), observation=f"clone {self.clones}")

    with pytest.raises(
        EnvError, match=r"a clone plays the same episode .*'clone 0', then 'clone 1"
    ):
        check_env(Numbered())
