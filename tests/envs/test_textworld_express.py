"""TextWorldExpress on its real simulator: protocol, gold paths, replay, a small run."""

import pytest

from eef.analysis.results import read_results
from eef.config import parse_settings
from eef.env_check import check_env
from eef.envs.registry import make_env, make_expert
from eef.envs.simulators.gold_paths import GoldPaths
from eef.envs.textworld_express import FOLDS, GAMES, TextWorldExpress, TextWorldSettings
from eef.errors import ConfigError, EnvError
from eef.pipeline.context import RunContext
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.replay import replay
from eef.report.run_page import draw_page
from eef.trajectory import Author
from tests.fakes.scripted_run import ScriptedPipeline, finish
from tests.fakes.small_run import eef
from tests.fakes.worlds import needs_java, record, wander

pytestmark = needs_java


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        world = TextWorldExpress(TextWorldSettings(tasks_per_split=5))
        yield world
        world.close()


def test_it_keeps_the_protocol(env):
    assert (
        len(
            check_env(
                env, actions=["look around", "", "no such thing", "take coin", "move north"]
            ).passed
        )
        > 10
    )


def test_splits_hold_every_game_and_share_nothing(env):
    ids = [task.id for split in FOLDS for task in env.tasks(split)]
    assert len(ids) == len(set(ids)) == 3 * 5 * len(GAMES)
    assert [task.id.split("/")[1] for task in env.tasks("train").head(len(GAMES))] == list(GAMES)
    with pytest.raises(EnvError, match="unknown split 'unseen'"):
        env.tasks("unseen")


def test_gold_paths_win_and_replay_in_a_fresh_process(env, tmp_path):
    tasks = list(env.tasks("test").head(len(GAMES)))
    paths = GoldPaths(env, tmp_path)
    assert paths.failing(tasks) == {}
    recorded = [(task, *record(env, task, list(paths[task].actions))) for task in tasks]
    recorded += [(task, *wander(env, task, 10, seed=0)) for task in tasks]
    env.pool.close()
    for task, path, last in recorded:
        assert replay(env, task, path).result == last


@pytest.mark.parametrize("game", GAMES)
def test_interleaved_episodes_are_the_same_as_episodes_played_alone(env, game):
    """Also two episodes of one task, and while its gold path is generated."""
    task = next(task for task in env.tasks("dev") if task.id.split("/")[1] == game)
    path = GoldPaths(env)[task]
    alone, last = record(env, task, list(path.actions))
    clones = [env.clone(), env.clone()]
    for clone in clones:
        clone.reset(task)
    seen = [[clone.step(item.step.action) for clone in clones] for item in alone[:-1]]
    env.pool.gold_actions(env.episode_spec(task))
    seen.append([clone.step(alone[-1].step.action) for clone in clones])
    expected = [item.step.observation for item in alone[1:]] + [last.observation]
    assert [[each.observation for each in pair] for pair in seen] == [
        [each, each] for each in expected
    ]
    for clone in clones:
        clone.close()


def test_an_expert_that_lapses_fails_sometimes(env):
    expert = make_expert(env, "lapsing-60")
    tasks = env.tasks("train").head(8)
    plans = [expert.plan(task) for task in tasks]
    assert plans == [make_expert(env, "lapsing-60").plan(task) for task in tasks]
    assert any(
        len(plan) < len(GoldPaths(env)[task].actions)
        for plan, task in zip(plans, tasks, strict=True)
    )


def test_a_command_generates_gold_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    done = eef(
        "env",
        "prepare",
        "textworld-express",
        "--set",
        'games="coin"',
        "--split",
        "dev",
        "--tasks",
        "3",
    )
    assert (done.exit_code, done.stdout) == (0, "")
    assert "3 gold paths; 0 of them do not win" in done.stderr
    kept = (tmp_path / "gold" / "textworld-express-1.1.0" / "coin.jsonl").read_text().splitlines()
    assert len(kept) == 3
    nothing = eef("env", "prepare", "toy")
    assert (nothing.exit_code, nothing.stderr) == (0, "toy needs no preparation\n")


class GoldContext(RunContext):
    """Students are gold paths with fewer lapses after each round."""

    def student(self, trained):
        expert = make_expert(self.env, f"lapsing-{40 - 10 * trained.round}")
        expert.author = Author("student", f"{trained.method}@round{trained.round}")
        return expert


def test_a_whole_run(env, tmp_path):
    recipe = parse_settings(
        Recipe,
        {
            "env": {"name": "textworld-express", "tasks_per_split": 5},
            "expert": {"names": ["scripted/lapsing-30"]},
            "tasks": {"train": 8, "test": 8},
            "rounds": 1,
            "methods": ["bc", "rft2", "eef"],
        },
        source="test",
    )
    Pipeline.create(tmp_path / "run", recipe)
    pipeline = ScriptedPipeline.open(tmp_path / "run")
    pipeline.context = GoldContext(pipeline.run)
    pipeline.context.__dict__["env"] = env  # where `cached_property` keeps it
    run = finish(pipeline).run.read()
    results = read_results(run)
    eef = results["eef"].last
    assert eef.explored["from_inside"] > 0
    assert (
        eef.explored["errors"],
        eef.explored["mismatches"],
        eef.explored["worker_restarts"],
    ) == (0, 0, 0)
    assert eef.selection["examples"] > 0
    assert set(eef.task_groups.groups) == set(GAMES)
    page = draw_page(run, results)
    assert "Scores by task group" in page
    assert "peckingorder" in page


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"games": "coins"}, "unknown game 'coins'", "did you mean 'coin'?"),
        ({"games": []}, "`env.games` is []", ""),
        ({"tasks_per_split": 0}, "`tasks_per_split` is 0", ""),
        ({"step_limit": 0}, "`step_limit` is 0", ""),
    ],
)
def test_mistakes(options, message, hint):
    with pytest.raises(ConfigError) as caught:
        make_env("textworld-express", options)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_parameters_that_the_simulator_rejects():
    env = TextWorldExpress(TextWorldSettings(games="coin", parameters="rooms=3"))
    with pytest.raises(EnvError, match="cannot load"):
        env.reset(env.tasks("train")[0])
    env.close()
