"""`eef advise`: it measures on the first stages of a run, which continue afterwards."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from eef.analysis.advice import (
    CALIBRATION,
    MARGIN,
    STRONG_GAINED,
    STRONG_MEAN,
    STRONG_RATE,
    STRONG_SETTINGS,
    advise_on,
    prospect_of,
)
from eef.analysis.potential import Potential
from eef.cli.advise import find_methods, with_methods
from eef.errors import ConfigError
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, Stage
from tests.fakes import ROOT
from tests.fakes.scripted_run import finish, start_run
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe


def potential(**changes):
    counts = {"tasks": 100, "hard": 40, "taught": 5, "lost": 35, "opened": 20, "missed": 0}
    rates = {
        "expert_rate": 0.3,
        "student_rate": 0.4,
        "tries": 6.0,
        "detour": 0.0,
        "branch_rate": 0.3,
        "length": 8.0,
        "failure": 8.0,
    }
    return Potential(**{**counts, **rates, **changes})


@pytest.mark.parametrize(
    ("changes", "prospect"),
    [
        ({}, "gain"),
        ({"opened": 4, "taught": 0}, "even"),
        ({"taught": 11}, "even"),
        ({"missed": 5}, "gain"),
        ({"missed": 6}, "loss"),
        ({"taught": 11, "missed": 3}, "loss"),
    ],
)
def test_the_prospect_follows_the_rule(changes, prospect):
    assert prospect_of(potential(**changes)) == prospect


def test_a_prospect_near_a_threshold_is_less_stable():
    clear, close = (advise_on(potential(taught=0, opened=count)) for count in (30, 6))
    assert clear.stability == 1.0
    assert 0.3 < close.stability < 0.9
    assert advise_on(potential(taught=0, opened=0)).stability == 1.0
    assert "100 % of the resamples of these tasks" in " ".join(clear.text())


def test_short_failures_have_few_states_to_branch_from():
    assert advise_on(potential()).options == {"M": 5, "rollouts_per_state": 1}
    short = advise_on(potential(failure=3.4))
    assert (short.options["M"], short.rollouts_per_task) == (2, 3)
    assert advise_on(potential(failure=1.0)).options["M"] == 1
    assert advise_on(potential(opened=0)).options == {"cap": 1}


def leads(*files):
    """(prospect, the student's win rate from the start, EEF's lead) of each of some settings."""
    for name in files:
        path = ROOT / "results/laboratory" / f"{name}.json"
        for row in json.loads(path.read_text(encoding="utf-8")):
            measured = Potential(
                **{
                    name: value
                    for name, value in row["measured_once"].items()
                    if not name.startswith("known")
                }
            )
            pair = zip(row["win_rates"]["eef"], row["win_rates"]["cap1"], strict=True)
            differences = [one - other for one, other in pair]
            yield prospect_of(measured), measured.student_rate, fmean(differences)


def calibration_of(found):
    return (
        len(found),
        sum(lead >= MARGIN for lead in found) / len(found),
        sum(lead <= -MARGIN for lead in found) / len(found),
        fmean(found),
    )


def test_the_calibration_is_that_of_the_held_out_settings():
    held_out = list(leads("held-out"))
    for name, expected in CALIBRATION.items():
        found = [lead for prospect, _, lead in held_out if prospect == name]
        assert expected == pytest.approx(calibration_of(found), abs=0.005), name


def test_a_predicted_gain_is_qualified_for_a_student_that_wins_often():
    found = [
        lead
        for prospect, rate, lead in leads("sample", "held-out")
        if prospect == "gain" and rate >= STRONG_RATE
    ]
    assert len(found) == STRONG_SETTINGS
    assert sum(lead >= MARGIN for lead in found) == STRONG_GAINED
    assert fmean(found) == pytest.approx(STRONG_MEAN, abs=0.0005)
    words = "2 gained at least 2 points, with +0.7 points on average"
    assert words in " ".join(advise_on(potential(student_rate=0.62)).text())
    assert words not in " ".join(advise_on(potential(student_rate=0.59)).text())
    assert words not in " ".join(advise_on(potential(student_rate=0.62, opened=0)).text())


def test_a_run_with_a_first_round_is_measured_without_playing(tmp_path):
    run = finish(start_run(tmp_path / "run")).run
    run.last_file(Stage(BC, 0, "train")).unlink()  # the measurement needs no weights
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    done = eef("advise", run.path, "--json", tmp_path / "advice.json", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    record = json.loads((tmp_path / "advice.json").read_text())
    assert record["measured"]["tasks"] == 20
    assert record["measured"]["tries"] == 2.0
    assert record["measured"]["hard"] == record["measured"]["taught"] + record["measured"]["lost"]
    assert "Recommended: `" in done.stdout
    assert "held-out simulated settings" in done.stdout
    assert "calibrated with 6 tries per task; this run has 2.0" in done.stderr


def test_cut_turns_are_named_since_tasks_may_count_as_hard_because_of_them(tmp_path):
    run = finish(start_run(tmp_path / "run")).run
    store = run.store("rft2") / "trajectories.jsonl"
    records = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    for record in records:
        for step in record["steps"]:
            step["cut"] = not record["success"]
    store.write_text("".join(f"{json.dumps(each)}\n" for each in records), encoding="utf-8")
    done = eef("advise", run.path, "--quiet")
    assert "100 % of the lost rollouts have a turn that was cut at `sampling.max_tokens`" in (
        done.stderr
    )
    assert "raise `sampling.max_tokens` above 256 and measure again" in done.stderr


def test_a_recipe_is_measured_in_the_first_stages_of_a_run_that_continues(student, tmp_path):
    recipe = write_recipe(
        tmp_path / "small.json",
        {
            **small_recipe(student, train={"updates": 1}, tasks={"train": 4, "test": 2}),
            "methods": ["bc"],
            "options": {},
        },
    )
    done = eef("advise", recipe, "--out", tmp_path / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    names = {str(path.relative_to(tmp_path / "run")) for path in tmp_path.glob("run/*/round*/*")}
    assert {"rft6/round1/explored.json", "eef/round1/explored.json"} <= names
    assert "eef/round1/selection.json" not in names
    again = eef("run", tmp_path / "run", "--quiet")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "run/eef/round1/evaluation.json").is_file()


def test_it_measures_with_eef_itself(student, tmp_path):
    """Not with groups, roles, a variant that does not branch, or one that starts elsewhere."""

    def run_with(**options):
        settings = small_recipe(student, methods=[*options]) | {"options": options}
        return RunDirectory(tmp_path, with_methods(as_recipe(settings)))

    others = {"eef+grpo": {}, "M0": {"method": "eef", "M": 0}}
    others["own"] = {"method": "eef", "branch_from": "student"}
    assert find_methods(run_with(rft6={}, **others)) == ("rft6", "eef")
    assert find_methods(run_with(rft6={}, **others, mine={"method": "eef"})) == ("rft6", "mine")
    with pytest.raises(ConfigError, match=r"`options.eef` makes `eef` a variant"):
        run_with(rft6={}, eef={"M": 0})


def test_a_run_without_the_methods_is_refused(tmp_path):
    run = finish(start_run(tmp_path / "run", methods=["bc"], options={})).run
    done = eef("advise", run.path)
    assert done.exit_code == 2
    assert "lacks the method `rft6`, which `eef advise` measures with" in done.stderr
    assert f"`eef advise RECIPE --out {run.path}`" in done.stderr


def test_a_run_that_tried_no_task_cannot_be_measured(tmp_path):
    run = finish(start_run(tmp_path / "run")).run
    for method in ("rft2", "eef"):
        path = run.store(method) / "trajectories.jsonl"
        path.write_text("", encoding="utf-8")
    done = eef("advise", run.path)
    assert done.exit_code == 2
    assert "has no rollouts of `rft2` from the start of a task to measure" in done.stderr
