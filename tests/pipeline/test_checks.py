"""Fingerprints: what makes numbers of two runs incomparable."""

from __future__ import annotations

import re

import pytest

from eef.cli.execution import recipe_of, refuse_options
from eef.envs.toy import ToyEnv
from eef.errors import ConfigError, StoreError
from eef.pipeline.checks import check_names, differences, merge_recipes
from eef.pipeline.context import RunContext
from eef.pipeline.recipe import load_recipe
from eef.pipeline.roles import check_roles
from eef.pipeline.run_directory import RECIPE_FILE, RunDirectory
from tests.fakes import ROOT
from tests.fakes.scripted_run import start_run
from tests.fakes.worlds import needs_java

REMOTE = {"engine": "remote", "server": {"urls": ["http://127.0.0.1:9/v1"]}}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"engine": 1, "inference": "local"}, {"engine": 1, "inference": "vllm"}, []),
        ({"engine": 1, "dtype": "float32"}, {"engine": 2, "dtype": "bfloat16"}, ["engine"]),
        # runs of an older development version name their inference engine `engine`
        ({"engine": "vllm", "engine_version": "0.32"}, {"engine": 1, "inference": "vllm"}, []),
        ({"env": "a"}, {"env": "b", "torch": "2"}, ["env"]),
    ],
)
def test_the_environment_is_compared_and_what_computes_is_not(one, other, expected):
    assert differences(one, other) == differences(other, one) == expected


def test_nothing_replaces_what_the_environment_states(tmp_path, monkeypatch):
    stated = {"env": "toy", "engine": 7, "dtype_of_pages": "text"}
    monkeypatch.setattr(ToyEnv, "fingerprint", lambda self: stated)
    fingerprint = start_run(tmp_path / "run").run.fingerprint
    assert {key: fingerprint[key] for key in stated} == stated
    assert fingerprint["inference"] == "local"


@pytest.mark.parametrize("method", ["grpo", "rloo", "gigpo", "retroact", "w4s", "eef+grpo"])
def test_acts_are_trained_as_they_were_sampled(tmp_path, method):
    roles = {"reflector": {"model": "base"}} if method == "retroact" else {}
    changes = {"methods": ["bc", method], "options": {}, "roles": roles}
    with pytest.raises(ConfigError, match=re.escape(f'"dropped", and method {method!r} trains')):
        start_run(tmp_path / "run", chat={"thoughts": "dropped"}, **changes)
    assert not (tmp_path / "run").exists()
    start_run(tmp_path / "kept", **changes)
    start_run(tmp_path / "imitated", chat={"thoughts": "dropped"})


@pytest.mark.parametrize(
    "change",
    [
        "train.max_tokens_per_microbatch=100",
        "train.gradient_checkpointing=true",
        "train.save_every=3",
        "train.threads=1",
        "train.ranks=2",
        "rollouts.cache_gib=1.5",
        "rollouts.server.timeout=3.0",
        "overrides.eef.train.gradient_checkpointing=true",
        "jobs=2",
    ],
)
def test_settings_of_speed_and_memory_may_change(tmp_path, change):
    run = start_run(tmp_path, rollouts=REMOTE if "server" in change else {}).run
    refuse_options(run.path, [change], None)
    changed = recipe_of(run.path, [change])
    assert changed != run.recipe
    assert merge_recipes(run.path / RECIPE_FILE, changed) == changed


@pytest.mark.parametrize(
    "change",
    [
        "seed=4",
        "train.epochs=9.0",
        "rollouts.server.model=other",
        "overrides.eef.train.learning_rate=1.0",
    ],
)
def test_settings_of_results_may_not_change(tmp_path, change):
    run = start_run(tmp_path, rollouts=REMOTE if "server" in change else {}).run
    with pytest.raises(ConfigError, match="whose recipe is fixed"):
        refuse_options(run.path, [change], None)
    with pytest.raises(StoreError, match=rf"differ in: {change.split('.')[0].split('=')[0]}\)"):
        merge_recipes(run.path / RECIPE_FILE, recipe_of(run.path, [change]))


RECIPES = [
    pytest.param(path, id=path.stem, marks=needs_java if "scienceworld" in path.stem else ())
    for path in sorted((ROOT / "recipes").glob("*.toml"))
]


@pytest.mark.parametrize("path", RECIPES)
def test_every_recipe_names_methods_roles_and_experts_that_exist(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    shop = ["env.data=synthetic"] if 'name = "webshop"' in path.read_text() else []
    recipe = load_recipe(path, ["model.name=base", *shop])
    context = RunContext(RunDirectory(tmp_path / "run", recipe))
    check_names(context)
    check_roles(context)
    assert context.run.recipes.keys() == context.run.methods.keys()
