"""A comparison in pieces at equal budget: what is done is picked up, what is missing is shown, and what is written."""

from __future__ import annotations

import json

import pytest
from small_run import eef, small_recipe, write_recipe

from eef.config import load_recipe
from eef.methods import make_method


@pytest.fixture(scope="module")
def comparison(student, tmp_path_factory):
    """Two seeds of which the second lacks a method; (directory, command)."""
    place = tmp_path_factory.mktemp("study")
    settings = small_recipe(student, tasks={"train": 5, "test": 5}, train={"updates": 2}, budget={"equal": "none"})
    settings["options"] = {"eef": {"M": 3}, "two": {"method": "eef", "M": 1}}
    recipe = write_recipe(place / "small.json", {**settings, "methods": ["rft4", "eef", "two"]})
    command = ("compare", recipe, "--seeds", 2, "--budget", "rollouts=12", "--out", place / "runs", "--quiet")
    pieces = [part for name in ("rft4@0", "eef@0", "eef@1") for part in ("--piece", name)]
    done = eef(*command, "--methods", "rft4,eef", *pieces)
    assert done.exit_code == 0, done.stderr
    return place / "runs", command


def test_pieces_alone_are_carried_out(comparison):
    directory, _ = comparison
    assert (directory / "seed0/rft4/round1/evaluation.json").exists()
    assert not (directory / "seed1/rft4").exists()
    together = json.loads((directory / "seeds.json").read_text())
    rates = {method["name"]: method["win_rates"] for method in together["methods"]}
    assert rates["rft4"][1] is None
    assert None not in rates["eef"]
    seeds = {(pair["first"], pair["second"]): pair["seeds"] for pair in together["pairs"]}
    assert seeds == {("rft4", "bc"): [0], ("eef", "bc"): [0, 1], ("eef", "rft4"): [0]}


def test_results_are_written_as_far_as_they_are(comparison, tmp_path):
    directory, _ = comparison
    done = eef("results", directory, "--out", tmp_path)
    assert done.exit_code == 0, done.stderr
    study = json.loads((tmp_path / "results/study.json").read_text())
    pair = study["comparisons"]["rollouts"]["eef_vs_rft4"]
    assert {"difference", "p", "p_adjusted", "interval", "seeds"} <= set(pair)
    assert pair["seeds"] == [0]
    document = (tmp_path / "docs/results.md").read_text()
    assert "## At equal rollouts" in document
    assert "EEF – RFT×4" in document
    assert "–" in next(line for line in document.splitlines() if line.startswith("| RFT×4"))
    page = (tmp_path / "docs/results.html").read_text()
    assert "default-src" in page
    assert "<script" not in page


def test_methods_are_added_and_what_is_done_stays(comparison):
    directory, command = comparison
    before = (directory / "seed0/eef/round1/evaluation.json").stat().st_mtime_ns
    done = eef(*command, "--methods", "two", "--piece", "two@0")
    assert done.exit_code == 0, done.stderr
    assert (directory / "seed0/eef/round1/evaluation.json").stat().st_mtime_ns == before
    recipe = json.loads((directory / "seed0/recipe.json").read_text())
    assert recipe["methods"] == ["rft4", "eef", "two"]
    assert len((directory / "seed0/two/trajectories.jsonl").read_text().splitlines()) == 12


def test_a_method_that_was_begun_keeps_its_options(comparison):
    _, command = comparison
    done = eef(*command, "--methods", "eef", "--set", "options.eef.M=2", "--piece", "eef@0")
    assert done.exit_code == 2
    assert "differs in: options" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--piece", "eef@7"), "no piece of this comparison"), (("--piece", "eef"), "no piece"),
        (("--budget", "seconds=3"), "is no budget"), (("--budget", "rollouts=many"), "is no budget"),
    ],
)
def test_a_mistake_is_named(comparison, option, message):
    _, command = comparison
    done = eef(*command, *option)
    assert done.exit_code == 2
    assert message in done.stderr


def test_what_is_no_comparison_is_named(tmp_path):
    done = eef("results", tmp_path)
    assert done.exit_code == 2
    assert "holds no comparison" in done.stderr


def test_the_studys_arms_can_be_made():
    from pathlib import Path

    recipe = load_recipe(Path(__file__).parent.parent / "recipes/study.toml")
    arms = {name: make_method(name, recipe.options.get(name)) for name in recipe.methods}
    assert len({repr(arm.options) + type(arm).__name__ for arm in arms.values()}) == len(arms)
