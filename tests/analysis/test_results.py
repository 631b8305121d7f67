"""Results: the numbers of a run are those of its stage files and of `eef.analysis.stats`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eef.analysis.results import Results, read_results
from eef.analysis.stats import bootstrap_interval, holm, mcnemar, paired_difference, wilson_interval
from eef.pipeline.evaluation import newly_solved
from eef.pipeline.ledger import Cost
from eef.pipeline.run_directory import RunDirectory
from eef.report.run_page import draw_page
from eef.report.run_table import rows
from eef.report.summary import progress
from tests.fakes.html import read_html
from tests.fakes.scripted_run import finish, start_run, write_result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A snapshot of a finished run."""
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.read()


@pytest.fixture(scope="module")
def results(run):
    return read_results(run)


def test_scores_are_those_of_stats(run, results):
    for method in results.methods:
        evaluation = run.evaluation(method.name, method.last.round)
        rewards = [outcome.reward for outcome in evaluation.outcomes]
        score = method.score
        assert (score.win_rate, score.mean_reward) == (evaluation.success_rate, sum(rewards) / 25)
        assert score.interval == wilson_interval(len(evaluation.wins), 25)
        assert score.reward_interval == bootstrap_interval(rewards)
        assert score.finished == sum(outcome.finished for outcome in evaluation.outcomes) / 25
    assert [method.name for method in results.methods] == ["expert", "bc", "rft2", "eef"]
    assert [method.last.round for method in results.methods] == [0, 0, 2, 2]


def test_every_pair_is_compared_on_the_same_tasks(run, results):
    assert len(results.comparisons) == 6
    tests = []
    for item in results.comparisons:
        first, second = (results[name].last.evaluation for name in (item.first, item.second))
        won = [[outcome.success for outcome in result.outcomes] for result in (first, second)]
        tests.append(mcnemar(*won))
        assert (item.only_first, item.only_second, item.p_value) == tests[-1]
        assert item.wins == paired_difference(*won)
        assert item.wins.mean == pytest.approx(first.success_rate - second.success_rate)
        assert item.reward.mean == pytest.approx(first.mean_reward - second.mean_reward)
    assert [item.p_adjusted for item in results.comparisons] == holm(
        [test.p_value for test in tests]
    )
    assert results.comparison("rft2", "eef") is results.comparison("eef", "rft2")


def test_outcomes_are_paired_by_task_not_by_position(tmp_path):
    run = start_run(tmp_path).run
    write_result(run, "bc", 0, won={1, 2})
    shuffled = write_result(run, "eef", 1, won={1, 2}, order=reversed(range(10)))
    assert shuffled.outcomes[0].task == "toy/9"
    comparison = read_results(run.read()).comparison("eef", "bc")
    assert (comparison.only_first, comparison.only_second, comparison.reward.mean) == (0, 0, 0)


def test_newly_solved_is_against_expert_and_behavior_cloning(run, results):
    known = [run.evaluation(name, 0) for name in ("expert", "bc")]
    for name in ("rft2", "eef"):
        for item in results[name].rounds:
            assert item.newly_solved == len(newly_solved(item.evaluation, known))
    assert results["bc"].last.newly_solved is None
    everyone = [item.evaluation.wins for method in results.methods for item in method.rounds]
    assert results.never_solved == 25 - len(frozenset().union(*everyone))
    assert results.unsolved_before == 25 - len(known[0].wins | known[1].wins)


def test_costs_are_those_of_the_ledger(run, results):
    for name, kinds in (
        ("eef", ("explore", "train", "evaluate")),
        ("expert", ("collect", "evaluate")),
    ):
        costs = run.costs(name)
        method = results[name]
        assert method.cost == sum(costs.values(), Cost())
        assert method.seconds == pytest.approx(sum(cost.seconds for cost in costs.values()))
        explored = [cost for stage, cost in costs.items() if stage.kind == kinds[0]]
        assert method.rollouts == sum(cost.rollouts for cost in explored)
        assert method.tokens == sum(cost.generated_tokens for cost in explored)
    assert (results["expert"].rollouts, results["bc"].rollouts, results["rft2"].rollouts) == (
        20,
        0,
        80,
    )
    assert results["expert"].cost_of("train") is None
    assert results["eef"].cost_of("train").updates == 10
    assert [results["rft2"].rollouts_up_to(round) for round in (0, 1, 2)] == [0, 40, 80]


def test_a_snapshot_reads_each_file_once(run, results, monkeypatch):
    """Once results and page are made, making them again needs no file."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"read again: {arguments}")

    draw_page(run, results)
    for name in ("read_object", "read_jsonl", "read_trajectories", "Ledger"):
        monkeypatch.setattr(f"eef.pipeline.run_directory.{name}", refuse)
    draw_page(run, read_results(run))


def test_counts_of_training_are_those_of_the_stores(run, results):
    stored = list(run.trajectories("eef"))
    for item in results["eef"].rounds:
        now = [each for each in stored if each.round == item.round]
        assert item.explored["rollouts"] == len(now)
        assert item.explored["wins_from_inside"] == sum(each.success for each in now if each.start)
        assert item.explored["from_inside"] == sum(each.start is not None for each in now) > 0
        won = {each.task for each in stored if each.success and each.round <= item.round}
        assert item.train_tasks_won == len(won)
        assert item.selection == run.selection("eef", item.round).counts
    wins = {each.task for each in run.trajectories("expert") if each.success}
    assert results["expert"].last.train_tasks_won == results["bc"].last.train_tasks_won == len(wins)
    assert results["rft2"].last.explored["from_inside"] == 0


def test_the_record_is_plain_json_with_documented_keys(results):
    record = json.loads(json.dumps(results.to_record(), allow_nan=False))
    assert (record["version"], record["name"], record["seed"]) == (3, "toys <b>", 3)
    row = record["methods"]["eef"]
    promised = {
        "win_rate",
        "mean_reward",
        "interval",
        "reward_interval",
        "newly_solved",
        "rollouts",
        "tokens",
        "seconds",
        "env_steps",
        "replayed_steps",
        "prompt_tokens",
        "cached_tokens",
        "generated_tokens",
        "updates",
        "trained_tokens",
        "processed_tokens",
        "finished",
        "train_tasks_won",
        "rounds",
    }
    assert promised <= set(row)
    assert row["interval"] == list(results["eef"].score.interval)
    assert [item["round"] for item in row["rounds"]] == [1, 2]
    assert {"win_rate", "interval", "selection", "explored", "costs", "behaviors"} <= set(
        row["rounds"][0]
    )
    assert len(record["comparisons"]) == 6
    assert {"a", "b", "win_difference", "p_value", "p_adjusted"} <= set(record["comparisons"][0])
    assert record["fingerprint"]["env"] == "toy"


def test_reading_and_drawing_write_nothing(run, results):
    def listing() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))

    before = listing()
    snapshot = RunDirectory.open(run.path).read()
    again = read_results(snapshot)
    draw_page(snapshot, again)
    assert again.to_record() == results.to_record()
    assert listing() == before


def test_unfinished_runs_have_none_for_what_is_not_done(tmp_path):
    pipeline = start_run(tmp_path / "run", rounds=1)
    run, planned = pipeline.run, pipeline.run.stages
    empty = read_results(run.read())
    assert empty.to_record()["methods"]["eef"]["win_rate"] is None
    assert empty.to_record()["methods"]["eef"]["rollouts"] is None
    assert empty.never_solved is None
    for done, stage in enumerate(planned, start=1):
        pipeline.execute(stage)
        # collected, bc selected, rft2 explored, rft2 evaluated, eef selected
        if done in (1, 3, 6, 9, 11):
            check_unfinished(run, done, len(planned))
    results = read_results(run.read())
    assert progress(results) == ""
    assert results["eef"].last.newly_solved is not None


def check_unfinished(run: RunDirectory, done: int, planned: int) -> None:
    snapshot = run.read()
    results: Results = read_results(snapshot)
    assert results.stages == (done, planned)
    assert f"{done} of {planned} stages" in progress(results)
    read_html(draw_page(snapshot, results))
    assert len(rows(results)) == 4
    eef = results["eef"]
    assert (eef.last, eef.rollouts, eef.seconds) == (None, None, None)
    assert results["expert"].rounds[0].train_tasks_won is not None
    if done == 6:
        assert results["rft2"].rounds[0].explored["rollouts"] == 40
        assert results["rft2"].rounds[0].selection is None
    if done == 11:
        assert eef.rounds[0].score is None
        assert eef.rounds[0].selection["examples"] > 0


def test_a_row_excludes_the_costs_of_later_rounds(tmp_path):
    pipeline = start_run(tmp_path / "run")
    for stage in pipeline.run.stages:
        if (stage.method, stage.round, stage.kind) == ("rft2", 2, "train"):
            break
        pipeline.execute(stage)
    rft = read_results(pipeline.run.read())["rft2"]
    assert (rft.last.round, len(rft.rounds)) == (1, 2)
    assert (rft.rollouts, rft.rollouts_up_to(2)) == (40, 80)
    assert rft.cost_of("train").updates == 5
