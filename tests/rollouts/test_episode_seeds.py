"""Episodes with chance in them: a seed per episode, a declared tolerance, or no replay at all."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from eef.env import json_field, seeded_task
from eef.env_check import check_env
from eef.errors import ConfigError, EnvError, ReplayMismatch
from eef.importers.importer import Importer
from eef.importers.verify import TaskIndex
from eef.methods.registry import METHODS
from eef.pipeline.checks import check_replayable
from eef.pipeline.context import RunContext
from eef.pipeline.ledger import usage_of
from eef.pipeline.run_directory import RunDirectory
from eef.replay import compare_observations, replay
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import RolloutSpec
from eef.rollouts.store import Store
from eef.trajectory import Author, StateRef, TrajectorySet
from eef.utils.jsonl import write_jsonl
from tests.fakes.guests import Drifting, Guests, Unrepeatable, host
from tests.fakes.small_run import as_recipe, small_recipe
from tests.fakes.toy_rollouts import run

TASKS = Guests().tasks("train")


def spec(task, state=None, *, id="s", seed=1):
    return RolloutSpec(f"{id}/{task.id}/{state}", task, state, seed, 1)


def by_expert(trajectory):
    return replace(trajectory, author=Author("expert", "e"))


def test_all_rollouts_of_a_task_start_with_one_seed_and_other_recipes_have_others():
    first = [run([spec(task, seed=seed)], Guests(), host(("look", "greet")))[0].episode_seed
             for task in TASKS for seed in (1, 2)]  # fmt: skip
    assert first[::2] == first[1::2]
    assert len(set(first)) == len(TASKS)
    other = run([spec(TASKS[0])], Guests(), host(("look",)), episode_seed=7)[0].episode_seed
    assert other != first[0]


def test_a_branch_has_the_seed_of_its_origin_and_counts_what_was_tolerated():
    expert = by_expert(run([spec(TASKS[1])], Guests(), host(("look", "wait", "greet")))[0])
    expert = replace(expert, episode_seed=expert.episode_seed, id="e")
    assert expert.success
    # another recipe's seed, and the seed of the record all the same
    specs = [spec(TASKS[1], StateRef("e", t), seed=t) for t in (1, 2)] + [spec(TASKS[1])]
    played = run(specs, Guests(), host(("greet",)), [expert], episode_seed=99)
    assert {item.episode_seed for item in played} == {expert.episode_seed}
    inside = sorted((item for item in played if item.start), key=lambda item: item.start.t)
    assert [item.success for item in inside] == [True, True]
    assert [item.usage.tolerated_steps for item in inside] == [2, 3]
    assert usage_of(inside).tolerated_steps == 5
    assert inside[0].steps[0].observation != expert.steps[1].observation, "what was acted on"


def test_a_difference_that_is_not_declared_is_a_mismatch():
    [expert] = run([spec(TASKS[1])], Drifting(), host(("look", "wait")))
    [branch] = run(
        [spec(TASKS[1], StateRef(expert.id, 1))], Drifting(), host(("greet",)), [by_expert(expert)]
    )
    assert (branch.status, branch.error_kind) == ("error", "replay")
    with pytest.raises(EnvError, match=r"same episode \(deterministic\)"):
        check_env(Drifting())


def test_replay_with_another_seed_differs():
    env = Guests()
    [expert] = run([spec(TASKS[1])], env, host(("look", "wait")))
    path = TrajectorySet([expert]).path(expert.id)
    assert replay(env, seeded_task(env, TASKS[1], expert.episode_seed), path).tolerated_steps == 10

    def differs(seed):
        try:
            replay(env, seeded_task(env, TASKS[1], seed), path)
        except ReplayMismatch as mismatch:
            return mismatch.step == 1
        return False

    assert any(differs(seed) for seed in range(10))


def test_the_check_of_a_seeded_environment():
    found = check_env(Guests(), actions=["look", "wait", "greet ada"])
    assert "some seeds give other episodes (`seeded`)" in found.passed
    assert found.tolerated > 50
    assert "differ in ignored parts" in str(found)

    class Unmoved(Guests):
        def reset(self, task):
            return super().reset(replace(task, seed=0))

    with pytest.raises(EnvError, match="some seeds give other episodes"):
        check_env(Unmoved(), actions=["look"])

    class Garbled(Guests):
        ignored = ("(",)

    with pytest.raises(EnvError, match="'\\(' is not a valid regular expression"):
        check_env(Garbled())
    found = check_env(Unrepeatable(), actions=["look"])
    assert not [line for line in found.passed if "deterministic" in line]


def test_ignored_fields_are_compared_as_absent():
    one, two = '{"id": "a-1", "n": [1, 2]}', '{"id": "b \\" 2", "n": [1, 2]}'
    ignored = [json_field("id")]
    assert compare_observations(ignored, one, two) == "tolerated"
    assert compare_observations([], one, two) == "different"
    assert compare_observations(ignored, one, one) == "equal"
    assert compare_observations(ignored, one, two.replace("2]", "3]")) == "different"
    assert compare_observations([], "a  b", "a b") == "different"
    assert compare_observations([], "a  b", "a b", white_space=False) == "equal"


def rows(path, items, **changes):
    write_jsonl(path, [{**item.to_record(), **changes} for item in items])
    return path


def importer(env):
    return Importer(TaskIndex(env, {"train": env.tasks("train")}))


def test_an_import_replays_with_the_seed_of_the_row(tmp_path):
    played = run([spec(task) for task in TASKS], Guests(), host(("look", "greet")))
    path = rows(tmp_path / "rows.jsonl", map(by_expert, played))
    reading = importer(Guests())
    items = list(reading.trajectories([path]))
    assert reading.report.replayed == len(TASKS)
    assert [item.episode_seed for item in items] == [item.episode_seed for item in played]
    # each of an episode's three observations states another time, the last one too
    tolerated = sum(each.tolerated_steps for each in reading.accounts)
    assert reading.report.tolerated == tolerated == 3 * len(TASKS)
    assert reading.report.to_record()["tolerated_steps"] == reading.report.tolerated
    # what the agent acted on is kept
    assert items[0].steps[1].observation == played[0].steps[1].observation
    other = importer(Guests())
    wrong = rows(tmp_path / "other.jsonl", map(by_expert, played), episode_seed=12345)
    assert len(list(other.trajectories([wrong]))) == len(TASKS)
    assert other.report.replayed < len(TASKS)


def test_messages_may_name_the_seed_of_their_episode(tmp_path):
    user, agent = {"role": "user", "content": "x"}, {"role": "assistant", "content": "Action: look"}
    row = {"messages": [user, agent], "episode_seed": "one"}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    [rejection] = importer(Guests()).trajectories([tmp_path / "rows.jsonl"])
    assert rejection.reason == "`episode_seed` is 'one'; expected a whole number"


def test_an_environment_that_cannot_be_replayed_gives_unverified_trajectories(tmp_path):
    env = Unrepeatable()
    played = run([spec(task) for task in TASKS], env, host(("look", "greet")))
    assert not any(item.replayable for item in played)
    path = rows(tmp_path / "rows.jsonl", map(by_expert, played))
    reading = importer(env)
    assert len(list(reading.trajectories([path]))) == len(TASKS)
    assert (reading.report.unverified, reading.report.replayed) == (len(TASKS), 0)
    assert {each.reason for each in reading.accounts} == {"guests cannot be replayed"}
    expert = replace(by_expert(played[0]), id="e", replayable=True)
    with Store.open(tmp_path / "store") as store:
        store.append(expert)
        with pytest.raises(EnvError, match="environment 'guests' cannot be replayed"):
            play_into_store([spec(TASKS[0], StateRef("e", 1))], store, env, host(("look",)), None)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_of_a_method_that_branches_is_refused_in_one_line(method, tmp_path):
    settings = small_recipe("student", methods=[method]) | {
        "options": {},
        "env": {"name": "tests.fakes.guests:Unrepeatable"},
        "expert": {"names": ["scripted/e"]},
    }
    context = RunContext(RunDirectory(tmp_path, as_recipe(settings)))
    if method.startswith("eef") or method in ("ipr", "atlas", "w4s"):
        expected = f"environment 'guests' cannot be replayed, and method '{method}' starts "
        with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
            check_replayable(context)
        assert "rft6" in caught.value.hint
    else:
        check_replayable(context)
