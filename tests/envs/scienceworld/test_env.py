"""ScienceWorld on its real simulator: tasks, splits, episodes, replay, gold paths, errors."""

from __future__ import annotations

import json
import os
import signal
import stat
from dataclasses import replace

import pytest

from eef.cli.doctor import _java
from eef.env import AFTER_END, Env
from eef.env_check import check_env
from eef.envs.registry import make_env, make_expert
from eef.envs.scienceworld import ScienceWorld, ScienceWorldSettings
from eef.envs.scienceworld.simulator import REFUSED, ScienceWorldFactory
from eef.envs.scienceworld.tasks import (
    ETO_LIMITS,
    PRESETS,
    SIMPLIFICATIONS,
    TOTAL,
    VARIATIONS,
    Simplifications,
    from_index,
    held_out_part,
    index_of,
    part_of,
)
from eef.envs.simulators.gold_paths import GoldPaths, play_path
from eef.envs.simulators.jvm import java_version
from eef.errors import ConfigError, EnvError
from eef.replay import replay
from eef.rollouts.runner import play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, TrajectorySet
from tests.fakes.toy_rollouts import parameters
from tests.fakes.worlds import children, needs_java, record, wander

pytestmark = needs_java

SHORT = ("find-non-living-thing", "lifespan-longest-lived", "power-component")


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        world = ScienceWorld(ScienceWorldSettings(tasks=SHORT, limits="eto"))
        yield world
        world.close()


# --- tasks and splits -----------------------------------------------------------------------------


def test_splits_are_the_official_ones_and_share_nothing():
    parts = {
        part: sum(len(part_of(name, part)) for name in VARIATIONS)
        for part in ("train", "dev", "test")
    }
    assert (len(VARIATIONS), TOTAL, parts) == (30, 7207, {"train": 3592, "dev": 1796, "test": 1819})
    assert [from_index(index_of(*from_index(index))) for index in range(TOTAL)] == [
        from_index(i) for i in range(TOTAL)
    ]
    env = ScienceWorld()
    ids = {split: {task.id for task in env.tasks(split)} for split in ("train", "dev", "test")}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == TOTAL
    assert {task.id for task in env.tasks("seen")} <= ids["dev"]
    assert {task.id for task in env.tasks("unseen")} <= ids["test"]


@pytest.mark.parametrize(
    ("preset", "tasks", "train", "seen", "unseen"),
    [("eto-24", 24, 1408, 199, 211), ("agentgym-23", 23, 2312, 189, 201)],
)
def test_presets(preset, tasks, train, seen, unseen):
    env = ScienceWorld(ScienceWorldSettings(tasks=preset))
    assert len(PRESETS[preset].tasks) == tasks
    assert [len(env.tasks(split)) for split in ("train", "seen", "unseen")] == [train, seen, unseen]
    assert (
        len({task.id.split("/")[1] for task in env.tasks("train").head(tasks)}) == tasks
    )  # a fair sample
    limits = {task.step_limit for task in env.tasks("train")}
    assert env.step_limit == (120 if preset == "eto-24" else 100)
    assert limits == (set(ETO_LIMITS.values()) if preset == "eto-24" else {None})


def test_training_tasks_cannot_be_evaluated_on():
    env = ScienceWorld(ScienceWorldSettings(tasks="eto-24", train=("train", "dev")))
    assert len(env.tasks("train")) > 1408
    for split in ("dev", "seen"):
        with pytest.raises(EnvError, match=f"split '{split}' overlaps with `train`"):
            env.tasks(split)
    assert len(env.tasks("unseen")) == 211


def test_named_simplifications_adapt_to_the_task():
    chosen = Simplifications.of("eto", tuple(VARIATIONS))
    assert chosen.for_task("boil") == ",".join(SIMPLIFICATIONS)
    assert (
        chosen.for_task("power-component")
        == "teleportAction,openDoors,selfWateringFlowerPots,openContainers"
    )
    assert Simplifications.of("none", ("boil",)).for_task("boil") == ""
    written = Simplifications.of(",".join(SIMPLIFICATIONS), ("boil",))
    assert written.for_task("boil") == chosen.for_task("boil")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"simplifications": "easy,openContainers"},
            "combines 'easy' with others",
            "list all names",
        ),
        (
            {"simplifications": ["easyy"]},
            "unknown simplification 'easyy'",
            "did you mean 'easy'?",
        ),
        (
            {"simplifications": ["noElectricalAction"], "tasks": "power-component"},
            "not allowed for `power-component`",
            "remove it",
        ),
        ({"tasks": "boill"}, "unknown task or preset 'boill'", "did you mean 'boil'?"),
        ({"tasks": ["boil", "boil"]}, "each once", ""),
        ({"workers": 0}, "`workers` is 0; expected 1 or more", ""),
        ({"memory": 1}, "`memory` is 1", ""),
        ({"step_limit": 0}, "`step_limit` is 0", ""),
        ({"step_limit": -5}, "`step_limit` is -5", ""),
        ({"success_threshold": 0}, "`success_threshold` is 0", ""),
        ({"train": ["tests"]}, "`train.0` is 'tests'", ""),
        ({"train": ["train", "train"]}, "each once", ""),
    ],
)
def test_mistakes(options, message, hint):
    with pytest.raises(ConfigError) as caught:
        make_env("scienceworld", options)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_variation_out_of_range():
    env = ScienceWorld(ScienceWorldSettings(tasks="boil"))
    with pytest.raises(
        ConfigError, match="unknown variation 30 of ScienceWorld's `boil`"
    ) as caught:
        env.task("boil", 30)
    assert caught.value.hint == "known variations: 0 to 29"
    with pytest.raises(EnvError, match="unknown split 'valid'"):
        env.tasks("valid")


def fake_java(directory, body):
    """A directory whose `java` is this script."""
    script = directory / "java"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    java_version.cache_clear()
    return str(directory)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("""echo 'openjdk version "1.8.0_402"' >&2""", "is Java 8; expected 11 or newer"),
        ("exit 1", "does not report a version: no output"),
    ],
)
def test_an_unusable_java(monkeypatch, tmp_path, body, message):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", fake_java(tmp_path, body))
    with pytest.raises(ConfigError, match=message) as caught:
        ScienceWorld()
    assert "apt-get install default-jre-headless" in caught.value.hint


def test_doctor_names_a_java_without_the_flags(monkeypatch, tmp_path):
    body = """case "$*" in *-XX*) exit 1;; *) echo 'openjdk version "17.0.9"' >&2;; esac"""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", fake_java(tmp_path, body))
    found = _java()
    assert not found.ok
    assert "not HotSpot: ScienceWorld refuses it" in found.found
    assert "`env.deterministic = false`" in found.remedy


def test_no_java_and_another_version_of_the_package(monkeypatch, tmp_path):
    from eef.envs.scienceworld import env as module

    monkeypatch.delenv("JAVA_HOME", raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match="no `java` found") as caught:
            ScienceWorld()
    assert "apt-get install default-jre-headless" in caught.value.hint
    monkeypatch.setattr(module, "VERSION", "1.3.0")
    with pytest.raises(ConfigError, match=r"`scienceworld` 1.2.3 is installed; expected 1.3.0"):
        ScienceWorld()


def test_a_java_that_ignores_the_flags(env):
    deaf = replace(env.factory.jvm, flags=())
    with pytest.raises(ConfigError, match="ignores `-XX:hashCode=2`") as caught:
        ScienceWorldFactory(deaf, deterministic=True)()
    assert "`env.deterministic = false`" in caught.value.hint
    assert (
        ScienceWorld(ScienceWorldSettings(deterministic=False)).fingerprint()["deterministic"]
        is False
    )
    assert ScienceWorld(ScienceWorldSettings(deterministic=False)).edition != env.edition


def test_the_error_of_a_jvm_that_does_not_start_has_the_reason():
    env = ScienceWorld(ScienceWorldSettings(memory=99_999_999))
    with pytest.raises(EnvError, match=r"does not start: .*(heap|memory|space)") as caught:
        env.reset(env.task("boil", 0))
    assert caught.value.hint == "lower `env.memory`"
    env.close()


def test_held_out_tasks_alternate_between_seen_and_unseen():
    env = ScienceWorld(ScienceWorldSettings(tasks="eto-24"))
    tasks = env.tasks("held-out")
    parts = {part: {task.id for task in env.tasks(part)} for part in ("seen", "unseen")}
    assert {task.id for task in tasks} == parts["seen"] | parts["unseen"]
    assert all(
        task.id in parts[task.split] and held_out_part(task.id) == task.split for task in tasks
    )
    assert {task.split for task in tasks.head(48)} == {"seen", "unseen"}
    assert {held_out_part(task.id) for task in env.tasks("train")} == {""}


def test_a_lower_threshold():
    env = ScienceWorld(ScienceWorldSettings(success_threshold=0.5))
    assert env.success_threshold == env.fingerprint()["success_threshold"] == 0.5


# --- episodes -------------------------------------------------------------------------------------


def test_it_keeps_the_protocol(env):
    assert isinstance(env, Env)
    actions = [
        "look around",
        "",
        "reset task",
        "open door",
        "no such action",
    ]
    assert len(check_env(env, actions=actions).passed) > 10


def test_an_episode(env):
    task = env.task("lifespan-longest-lived", 0)
    first = env.reset(task)
    assert first.startswith("Your task is to find the animal with the longest life span.")
    assert "This room is called the" in first
    for words in (
        "Reset  task",
        "reset the task",
        "a reset an  Task the\n",
    ):  # the simulator skips articles
        assert env.step(words).observation == REFUSED
    assert env.step("frobnicate").observation == "No known action matches that input."
    rewards = [env.step(action).reward for action in ("go to greenhouse", "go to outside")]
    assert 0.0 < env.score(rewards) < 1.0
    lost = env.step("focus on air")
    assert (lost.terminated, env.score([*rewards, lost.reward])) == (True, 0.0)
    assert env.step("look around") == AFTER_END
    env.reset(task)
    assert not env.step("look around").terminated, "an episode begins anew"


def test_the_score_is_not_that_of_the_previous_episode(env):
    """The simulator keeps score and end of the last episode until the first step of the next."""
    task = env.tasks("train")[0]
    path = make_expert(env, "flawless")._paths[task]
    assert path.reward == 1.0
    for _ in range(2):
        env.reset(task)
        first = env.step("task")
        assert (first.terminated, first.reward <= 0.5) == (False, True)
        play_path(env, task, path.actions)


def test_interleaved_episodes_are_the_same_as_episodes_played_alone(env):
    """All in one JVM with one random number generator and one id counter; also two of one task."""
    tasks = [*env.tasks("train").head(5), env.tasks("train")[0]]
    alone = [wander(env, task, 12, seed=0)[0] for task in tasks]
    clones = [env.clone() for _ in tasks]
    seen = [[clone.reset(task)] for clone, task in zip(clones, tasks, strict=True)]
    for turn in range(12):
        for clone, path, observations in zip(clones, alone, seen, strict=True):
            if turn < len(path):
                observations.append(clone.step(path[turn].step.action).observation)
    for path, observations in zip(alone, seen, strict=True):
        assert [item.step.observation for item in path] == observations[: len(path)]
    for clone in clones:
        clone.close()


def test_an_episode_survives_its_jvm(env):
    task = env.tasks("train")[0]
    path, last = record(env, task, list(GoldPaths(env)[task].actions))
    middle, deaths = len(path) // 2, env.worker_restarts
    now = replay(env, task, path[:middle]).result
    os.kill(children(env.pool.workers[0].pid)[0], signal.SIGKILL)
    for item in path[middle:]:
        assert now.observation == item.step.observation
        now = env.step(item.step.action)
    assert (now, env.worker_restarts) == (last, deaths + 1)


# --- gold paths and experts -----------------------------------------------------------------------


def test_gold_paths_win_are_cached_and_replay(env, tmp_path):
    tasks = env.tasks("test").head(3)
    paths = GoldPaths(env, tmp_path)
    assert paths.failing(tasks) == {}
    kept = [
        json.loads(line)
        for file in tmp_path.rglob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert sorted(record["reward"] for record in kept) == [1.0, 1.0, 1.0]
    again = GoldPaths(env, tmp_path)
    again._generate = None  # nothing is made a second time
    for task in tasks:
        assert again[task] == paths[task]
        path, last = record(env, task, list(paths[task].actions))
        assert replay(env, task, path).result == last


def collect(env, preset, tasks):
    expert = make_expert(env, preset)
    specs = [RolloutSpec(task.id, task, None, 0, 0) for task in tasks]
    played = play(
        specs,
        env=env,
        policy=expert,
        trajectories=TrajectorySet(),
        parameters=parameters(env.step_limit, len(specs)),
    )
    return {trajectory.task: trajectory for trajectory in played}


def test_experts(env):
    tasks = env.tasks("train").head(6)
    flawless, lapsing = collect(env, "flawless", tasks), collect(env, "lapsing-50", tasks)
    assert all(trajectory.success for trajectory in flawless.values())
    assert not all(trajectory.success for trajectory in lapsing.values())
    assert {trajectory.status for trajectory in lapsing.values()} <= {"terminated", "truncated"}
    assert {trajectory.author for trajectory in lapsing.values()} == {
        Author("expert", "lapsing-50")
    }
    step = flawless[tasks[0].id].steps[0]
    assert step.completion.startswith("Thought: I am to find ")
    assert step.completion.endswith(f"\nAction: {step.action}")
    with pytest.raises(EnvError, match="unknown scripted expert 'lapsing'"):
        make_expert(env, "lapsing")


# --- long -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_gold_paths_and_random_rollouts_replay_in_fresh_processes(tmp_path):
    """Two gold paths per task and 60 random rollouts of 30 steps are recorded, then replayed."""
    env = ScienceWorld(
        ScienceWorldSettings(workers=2, memory=512, timeout=600.0, simplifications="eto")
    )
    tasks = [
        env.task(name, variation) for name in VARIATIONS for variation in (0, VARIATIONS[name] - 1)
    ]
    paths = GoldPaths(env, tmp_path)
    failing = paths.failing(tasks)
    recorded = [(task, *record(env, task, list(paths[task].actions))) for task in tasks]
    recorded += [(task, *wander(env, task, 30, seed=1)) for task in tasks]
    env.close()
    for task, path, last in recorded:
        assert replay(env, task, path).result == last, task.id
    env.close()
    assert len(recorded) == 120
    assert len(failing) < 6, failing


@pytest.mark.long
def test_the_splits_are_those_of_the_package(env):
    """The simulator runs in this process."""
    simulator = env.factory()
    try:
        found = simulator.variations()
    finally:
        simulator.close()
    parts = ("train", "dev", "test")
    assert found == {name: [list(part_of(name, part)) for part in parts] for name in VARIATIONS}
