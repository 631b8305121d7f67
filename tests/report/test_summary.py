"""Summary: the sentences on a run follow its numbers."""

from __future__ import annotations

from pathlib import Path

from eef.analysis.results import read_results
from eef.report.summary import headline, verdict
from tests.fakes.scripted_run import finish, start_run, write_result


def words(directory: Path, **won: set[int]) -> tuple[str, str]:
    """Headline and verdict of evaluations written by hand, with plain spaces."""
    run = start_run(directory).run
    for method, tasks in won.items():
        write_result(run, method, 0 if method in ("bc", "expert") else 1, won=tasks)
    results = read_results(run.read())
    return headline(results).replace("\u00a0", " "), verdict(results).replace("\u00a0", " ")


def test_a_clear_difference_is_stated_with_its_p_value(tmp_path):
    head, why = words(tmp_path, rft2={1}, eef={*range(10)})
    assert head == "EEF wins 100.0 % of 10 test tasks; RFT×2 wins 10.0 %."
    assert "90.0 points" in why
    assert "is statistically significant" in why
    assert "by chance in about 4 of 1,000 such comparisons (exact McNemar test, p = 0.004)" in why


def test_a_difference_can_lose_significance_by_the_correction(tmp_path):
    _, why = words(tmp_path, expert={0}, bc={1}, rft2=set(), eef={0, 1, 2, 3, 4, 5})
    assert "is significant by itself, but not after correction" in why
    assert "p = 0.031; p = 0.19 when corrected for 6 comparisons" in why


def test_no_difference_is_stated_too(tmp_path):
    head, why = words(tmp_path / "small", bc={1}, rft2={1, 2}, eef={1, 2, 3})
    assert head == "EEF wins 30.0 % of 10 test tasks; RFT×2 wins 20.0 %."
    assert "may be due to chance: this run does not show that either is better" in why
    head, why = words(tmp_path / "other", rft2={1, 2}, eef={2, 3})
    assert head == "EEF wins 20.0 % of 10 test tasks, and so does RFT×2."
    assert "this run shows no difference" in why
    assert "exactly the same tasks" in words(tmp_path / "same", rft2={1, 2}, eef={1, 2})[1]


def test_the_better_method_is_named_first_even_if_it_is_not_eef(tmp_path):
    head, why = words(tmp_path, rft2={1, 2, 3}, eef={1})
    assert head.startswith("RFT×2 wins 30.0 %")
    assert "20.0 points (95 % interval 0.0 to" in why


def test_missing_results_are_stated(tmp_path):
    assert words(tmp_path / "none") == ("Nothing has been evaluated yet.", "")
    assert words(tmp_path / "bc", bc={1})[0].startswith("Behavior cloning wins 10.0 %")
    assert (
        words(tmp_path / "one", bc={1}, eef={1, 2})[0]
        == "EEF wins 20.0 % of 10 test tasks; BC wins 10.0 %."
    )


def test_equal_rollouts_are_stated_only_if_they_are_equal(tmp_path):
    results = read_results(finish(start_run(tmp_path / "more")).run.read())
    assert "same number of rollouts" not in headline(results)  # eef also branches from failures
    equal = {"rounds": 1, "options": {"eef": {"M": 1}}, "budget": {"rollouts_per_task": 2}}
    results = read_results(finish(start_run(tmp_path / "equal", **equal)).run.read())
    assert "with the same number of rollouts" in headline(results)
