"""The data format's page is what the code says, and the code says what a run leaves."""

from __future__ import annotations

import json
from fnmatch import fnmatch

import pytest

from docs.generate import FILES, data_format_page
from eef.utils.jsonl import read_json, read_jsonl
from tests.fakes import ROOT
from tests.fakes.small_run import eef, small_recipe, write_recipe


def test_the_page_is_that_of_the_code():
    page = (ROOT / "docs/data-format.md").read_text(encoding="utf-8")
    assert page == data_format_page(), "docs/data-format.md is out of date: `make docs`"


@pytest.fixture(scope="module")
def left(student, tmp_path_factory):
    """A whole run whose experts are played and imported, with all it leaves."""
    directory = tmp_path_factory.mktemp("format")
    talk = [{"role": "user", "content": "see"}, {"role": "assistant", "content": "Action: go"}]
    row = {"messages": talk, "reward": 1.0}
    (directory / "own.jsonl").write_text(json.dumps(row) + "\n")
    experts = ["scripted/weak", f"file/{directory / 'own.jsonl'}"]
    recipe = write_recipe(
        directory / "small.json",
        small_recipe(
            student,
            methods=["bc", "eef", "eef+dpo"],
            expert={"names": experts},
            train={"updates": 2},
            budget={"rollouts_per_task": None},
        ),
    )
    done = eef("run", recipe, "--out", directory / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    return directory / "run"


def told(path: str):
    """The entry of a file: the first that fits, the longest pattern first."""
    found = [each for each in FILES if fnmatch(path, each.path)]
    return max(found, key=lambda each: len(each.path)) if found else None


def test_every_file_of_a_run_is_told_with_its_keys(left):
    files = sorted(path for path in left.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        name = str(path.relative_to(left))
        entry = told(name)
        assert entry is not None, name
        if entry.keys is None:
            continue
        records = read_jsonl(path) if path.suffix == ".jsonl" else [read_json(path)]
        for record in records:
            assert set(record) <= set(entry.keys), name
            assert entry.required <= set(record), name


def test_an_example_is_shown_with_the_rollouts_that_prove_it(left):
    example = read_jsonl(left / "eef/round1/examples.jsonl")[0]
    shown = eef("show", left, example["id"], "--method", "eef").stdout
    for name in example["evidence"]:
        assert f"evidence  {name}: " in shown
    assert example["evidence"]
    imported = read_jsonl(left / "expert/trajectories.jsonl")[-1]
    assert (
        f"source    {imported['source']} (unverified)" in eef("show", left, imported["id"]).stdout
    )
