"""Gold paths: lapses, thoughts, and paths that cannot be generated."""

import random
import threading

from hypothesis import given
from hypothesis import strategies as st

from eef.envs.scienceworld.thoughts import think
from eef.envs.simulators import gold_paths
from eef.envs.simulators.gold_paths import GoldExpert, GoldPath, GoldPaths, lapse
from eef.rollouts.runner import play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, TrajectorySet
from tests.fakes.counting import CountingEnv
from tests.fakes.toy_rollouts import parameters

ACTIONS = st.lists(
    st.sampled_from(["go to kitchen", "open door", "0", "1", "focus on dog"]), max_size=20
)


def test_a_failed_gold_path_affects_only_its_task(tmp_path, monkeypatch):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    env = CountingEnv(workers=2)
    tasks = list(env.tasks("train").head(4))
    failing = GoldPaths(env).failing(tasks)
    assert str(failing.pop(tasks[1].id)) == f"no gold path for `{tasks[1].id}`: no way from 5"
    assert failing == {tasks[2].id: 0.9, tasks[3].id: 0.85}, (
        "these count to 100, but win less than all"
    )
    kept = (tmp_path / "gold" / "counting" / "up.jsonl").read_text().splitlines()
    assert len(kept) == 3
    expert = GoldExpert(
        GoldPaths(env), Author("expert", "flawless"), 0.0, lambda first, action: "count"
    )
    specs = [RolloutSpec(task.id, task, None, 0, 0) for task in tasks]
    played = {
        item.task: item.status
        for item in play(
            specs,
            env=env,
            policy=expert,
            trajectories=TrajectorySet(),
            parameters=parameters(step_limit=5),
        )
    }
    assert played.pop(tasks[1].id) == "error"
    assert "error" not in played.values()
    env.close()


def test_processes_that_fill_the_same_cache_do_not_damage_it(tmp_path, monkeypatch):
    env = CountingEnv(workers=1)
    tasks = list(env.tasks("train").head(2))
    one, other = (GoldPaths(env, tmp_path) for _ in range(2))
    append, path = gold_paths.append_jsonl, GoldPath(("1",), 1.0)
    second = threading.Thread(target=other._keep, args=(tasks[1], path))

    def append_slowly(file, record):
        monkeypatch.setattr(gold_paths, "append_jsonl", append)
        whole = tmp_path / "whole"
        append(whole, record)
        with file.open("ab", buffering=0) as stream:
            stream.write(whole.read_bytes()[:20])
            second.start()
            second.join(0.5)
            stream.write(whole.read_bytes()[20:])

    monkeypatch.setattr(gold_paths, "append_jsonl", append_slowly)
    one._keep(tasks[0], path)
    second.join()
    again = GoldPaths(env, tmp_path)
    assert [again[task] for task in tasks] == [path, path]
    env.close()


@given(ACTIONS, st.integers(0, 99))
def test_without_lapses_the_path_is_unchanged(actions, seed):
    assert lapse(actions, 0.0, random.Random(seed)) == actions


@given(ACTIONS, st.floats(0, 1), st.integers(0, 99))
def test_lapses_only_use_actions_of_the_path(actions, rate, seed):
    played = lapse(actions, rate, random.Random(seed))
    assert set(played) <= set(actions)
    assert played == lapse(actions, rate, random.Random(seed))


def test_an_answer_stays_with_its_question():
    for seed in range(200):
        played = lapse(["look around", "open door", "0", "go to hall"], 0.5, random.Random(seed))
        for before, action in zip(["", *played], played, strict=False):
            assert (action == "0") <= (before == "open door")


def test_lapses_occur_at_their_rate():
    kept = [len(lapse(["a", "b", "c", "d"] * 5, 0.2, random.Random(seed))) for seed in range(400)]
    assert (
        12 < sum(kept) / len(kept) < 18
    )  # drops take a part, and an early stop all that would follow


def test_every_action_has_a_thought():
    first = "Your task is to turn on the red light bulb. First, focus on it."
    assert think(first, "connect battery anode to black wire").endswith(
        "from battery anode to black wire."
    )
    assert (
        think(first, "eat soup")
        == "I am to turn on the red light bulb, then focus on it: now I eat soup."
    )
