"""`docs.generate.FILES` describes every file that a run leaves."""

from __future__ import annotations

import json
from fnmatch import fnmatch

import pytest

from docs.generate import FILES
from eef.utils.jsonl import read_json, read_jsonl
from tests.fakes.small_run import eef, small_recipe, write_recipe


@pytest.fixture(scope="module")
def run_directory(student, tmp_path_factory):
    """A whole run with a scripted and an imported expert."""
    directory = tmp_path_factory.mktemp("format")
    talk = [{"role": "user", "content": "see"}, {"role": "assistant", "content": "Action: go"}]
    row = {"messages": talk, "reward": 1.0}
    (directory / "own.jsonl").write_text(json.dumps(row) + "\n")
    experts = ["scripted/weak", f"file/{directory / 'own.jsonl'}"]
    recipe = write_recipe(
        directory / "small.json",
        small_recipe(
            student,
            methods=["bc", "eef", "eef+dpo", "grpo"],
            options={
                "eef": {"M": 3},
                "grpo": {"tasks_per_round": 2, "invalid_action_penalty": 0.1},
            },
            overrides={"grpo": {"rounds": 2, "evaluate": {"every": 2}}},
            expert={"names": experts},
            train={"updates": 2, "keep_checkpoints": "evaluated"},
            budget={"rollouts_per_task": None},
        ),
    )
    done = eef("run", recipe, "--out", directory / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    return directory / "run"


def find_entry(path: str):
    """The entry of a file: of those that match, the one with the longest pattern."""
    found = [each for each in FILES if fnmatch(path, each.path)]
    return max(found, key=lambda each: len(each.path)) if found else None


def test_every_file_of_a_run_is_described_with_its_keys(run_directory):
    files = sorted(path for path in run_directory.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        name = str(path.relative_to(run_directory))
        entry = find_entry(name)
        assert entry is not None, name
        if entry.keys is None:
            continue
        records = read_jsonl(path) if path.suffix == ".jsonl" else [read_json(path)]
        for record in records:
            assert set(record) <= set(entry.keys), name
            assert entry.required <= set(record), name


def test_an_example_is_shown_with_its_evidence(run_directory):
    example = read_jsonl(run_directory / "eef/round1/examples.jsonl")[0]
    shown = eef("show", run_directory, example["id"], "--method", "eef").stdout
    for name in example["evidence"]:
        assert f"evidence  {name}: " in shown
    assert example["evidence"]
    imported = read_jsonl(run_directory / "expert/trajectories.jsonl")[-1]
    assert (
        f"source    {imported['source']} (unverified)"
        in eef("show", run_directory, imported["id"]).stdout
    )
