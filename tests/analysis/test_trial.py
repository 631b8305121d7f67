"""Trial: older records are migrated, and the stored trials of the study are current."""

from __future__ import annotations

import json

import pytest

from eef.analysis.trial import RoundBudget, Trial, read_trial, shared_settings, write_trial
from eef.errors import StoreError
from eef.pipeline.checks import differences
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import load_recipe
from tests.fakes import ROOT

OLD = {
    "version": 2,
    "study": "s",
    "method": "eef",
    "seed": 1,
    "budget": ["tokens", 700],
    "place": 3,
    "rounds": 1,
    "algorithm": "eef",
    "options": {"M": 5, "ok_rule": "any", "launch": "expert", "expert_states": "failed"},
    "settings": {"rollouts.fresh_limit": False, "train.warmup": 0.03, "train.start": "base"},
    "fingerprint": {"env": "toy"},
    "tasks": ["a", "b"],
    "scores": {"1": {"rewards": [1.0, 0.5], "won": "10"}},
    "costs": {"1": {"explore": {"rollouts": 9}}},
    "skills": {"1": {"won": {"episodes": 1, "means": {"Next": 2.0}}}},
    "selected": {},
    "starts": [[1, 2]],
    "noise": {"version": 1, "round": 1, "states": [["e", 0, 3, 20]]},
}


def test_a_record_of_version_2_is_migrated():
    trial = Trial.from_record(OLD)
    assert (trial.order, trial.budget) == (3, RoundBudget("tokens", 700))
    assert trial.options == {
        "M": 5,
        "label_rule": "any",
        "branch_from": "expert",
        "expert_filter": "failed",
    }
    assert set(trial.settings) == {
        "rollouts.reset_step_limit",
        "train.warmup_ratio",
        "train.init_from",
        "chat.format",
        "chat.template_variables",
        "chat.thoughts",
        "expert.own",
        "expert.sampling",
        "rollouts.engine",
    }
    assert trial.behaviors[1]["won"].means == {"Next": 2.0}
    assert trial.label_noise.states[0].wins == 3
    assert trial.wins(1) == {"a"}
    assert trial.cost_of("explore") == Cost(rollouts=9)
    assert Trial.from_record(json.loads(json.dumps(trial.to_record()))) == trial


def test_an_older_record_states_the_settings_that_it_did_not_have():
    settings = {
        "train.ranks": 2,
        "rollouts.hosts": 3,
        "chat.thoughts": "dropped",
        "train.epochs": 1,
    }
    trial = Trial.from_record({**OLD, "version": 2, "settings": settings})
    assert trial.settings == {
        "train.epochs": 1,
        "chat.format": "react",
        "chat.template_variables": {},
        "chat.thoughts": "dropped",
        "expert.own": {},
        "expert.sampling": {"temperature": None, "top_p": None, "max_tokens": None},
        "rollouts.engine": "local",
    }


def test_stored_trials_share_settings_with_new_ones():
    """So trials of the study can be added to those that are stored."""
    stored = read_trial(ROOT / "results/trials/rollouts/eef@0.json").settings
    made = shared_settings(load_recipe(ROOT / "recipes/study.toml"))
    assert differences(stored, made) == []


@pytest.mark.parametrize("version", [0, 1, 5])
def test_other_versions_are_refused(version):
    with pytest.raises(StoreError, match=f"version {version}; this `eef` reads 2 to 4"):
        Trial.from_record({**OLD, "version": version})


def test_a_trial_is_written_by_budget_method_and_seed(tmp_path):
    trial = Trial.from_record(OLD)
    write_trial(tmp_path, trial)
    assert read_trial(tmp_path / "tokens/eef@1.json") == trial


def test_the_stored_trials_are_of_the_current_version():
    paths = sorted((ROOT / "results/trials").rglob("*.json"))
    assert len(paths) > 100
    for path in paths:
        record = json.loads(path.read_text())
        assert record["version"] == Trial.VERSION, path
        assert path.parent.name == record["budget"][0]
