"""The environment protocol: the toy environment keeps it, and `check_env` finds violations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.env import FORMAT_ERROR, Env, StepResult, check_env, execute, replay
from eef.envs.toy import Corridor, ToyEnv, ToySettings, toy_player
from eef.errors import EnvError, ReplayMismatch
from eef.policy import GREEDY
from eef.rollouts.runner import RolloutParameters, RolloutSpec, play
from eef.task import TaskSet
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
    assert len(check_env(env, split=split, actions=["take red", *MOVES, "right", "right"])) > 30


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
    assert replay(env, task, []) == StepResult(env.reset(task), 0.0, False)
    assert replay(env, task, record(env, 0, ["right", ""])).observation == FORMAT_ERROR


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


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (Moody(), "a clone plays the same episode"),
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
        check_env(env, actions=["right", "take red", "right", "left"])
