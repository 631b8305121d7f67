"""Case study: which failed trajectory of a run is the most instructive."""

from __future__ import annotations

from eef.analysis.case_study import find_case_study
from tests.fakes.scripted_run import explored_run, finish, start_run


def test_the_case_study_is_the_most_instructive_failure(tmp_path):
    run = explored_run(
        tmp_path,
        {
            "dull": ["lose"] * 6,
            "half": ["lose", "win", "win", "win", "win", "win"],
            "full": ["lose", "win", "lose", "win", "win", "lose"],
            "dark": ["-", "error", "lose", "lose", "lose", "lose"],
        },
    )
    case = find_case_study(run.read())
    assert (case.expert.id, case.method, case.round, case.failures) == ("full", "eef", 1, 4)
    assert case.grid == run.methods["eef"].measure(run.trajectories("eef"), case.expert, 1)
    assert {example.state for example in case.examples} == {0, 4}


def test_there_is_no_case_study_without_an_explored_failure(tmp_path):
    assert find_case_study(start_run(tmp_path / "new").run.read()) is None
    run = finish(start_run(tmp_path / "run")).run.read()
    assert find_case_study(run).grid.rollouts[0] != ()
