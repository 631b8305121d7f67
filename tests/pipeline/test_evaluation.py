"""Evaluation: no mean excludes a failure, records round-trip, newly solved tasks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import ConfigError, StoreError
from eef.pipeline.evaluation import EvalResult, Outcome, newly_solved, summarize
from eef.pipeline.ledger import Cost
from eef.trajectory import Author, StateRef, Step, Trajectory, Usage
from tests.fakes.strategies import texts, trajectories

outcomes = st.builds(
    Outcome,
    task=texts,
    reward=st.floats(0, 1),
    success=st.booleans(),
    finished=st.booleans(),
    steps=st.integers(0, 100),
    error=st.none() | texts,
)
results = st.builds(
    EvalResult,
    policy=texts,
    method=st.sampled_from(["expert", "bc", "eef"]),
    round=st.integers(0, 9),
    split=texts,
    outcomes=st.lists(outcomes, min_size=1, max_size=6).map(tuple),
    cost=st.builds(Cost, rollouts=st.integers(0, 99), seconds=st.floats(0, 1e6)),
)


def played(task, status="terminated", reward=1.0, **fields):
    step = Step(observation="a page", completion="Action: buy", action="buy")
    return Trajectory(
        **{
            "id": f"evaluation/{task}",
            "task": task,
            "author": Author("student", "eef@round1"),
            "steps": (step, step),
            "final_observation": "the end",
            "status": status,
            "reward": reward,
            "success": reward == 1.0,
            **fields,
        }
    )


def result_of(*trajectories):
    return summarize(trajectories, policy="student:eef@round1", method="eef", round=1, split="test")


def test_rates_and_outcomes_of_a_split():
    result = result_of(
        played("toy/1"),
        played("toy/2", reward=0.5),
        played("toy/3", "truncated", 0.0, error="context overflow"),
        played("toy/4", "error", None, error="environment: it broke"),
    )
    assert (result.success_rate, result.mean_reward, result.wins) == (0.25, 0.375, {"toy/1"})
    assert [outcome.task for outcome in result.outcomes] == ["toy/1", "toy/2", "toy/3", "toy/4"]
    assert [outcome.finished for outcome in result.outcomes] == [True, True, False, False]
    assert [outcome.error for outcome in result.outcomes] == [
        None,
        None,
        "context overflow",
        "environment: it broke",
    ]
    assert (result.cost.rollouts, result.cost.env_steps) == (4, 8)


@given(st.lists(trajectories(), min_size=1, max_size=6))
def test_a_failed_episode_counts_as_lost(played):
    result = result_of(*played)
    assert len(result.outcomes) == len(played)
    for outcome, trajectory in zip(result.outcomes, played, strict=True):
        if trajectory.status == "error":
            assert (outcome.reward, outcome.success, outcome.finished) == (0.0, False, False)
        else:
            assert (outcome.reward, outcome.success) == (trajectory.reward, trajectory.success)
    assert 0 <= result.mean_reward <= 1
    assert result.success_rate <= sum(trajectory.success for trajectory in played) / len(played)


def test_steps_count_the_whole_path():
    branch = played("toy/1", start=StateRef("e", 3), usage=Usage(generated_tokens=7))
    assert result_of(branch).outcomes[0].steps == 5


def test_a_split_without_tasks_has_no_result():
    with pytest.raises(ConfigError, match="split 'test' has no task"):
        result_of()


@given(results)
def test_records_round_trip(result):
    assert EvalResult.from_record(json.loads(json.dumps(result.to_record()))) == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99; this `eef` reads 1"),
        ({"version": None}, "version None"),
        ({"outcomes": [{"task": "toy/1"}]}, "malformed"),
        ({"outcomes": None}, "malformed"),
        ({"cost": {"coins": 3}}, "malformed"),
        ({"mood": "good"}, "malformed"),
    ],
)
def test_malformed_records(change, message):
    with pytest.raises(StoreError, match=message):
        EvalResult.from_record({**result_of(played("toy/1")).to_record(), **change})


@pytest.mark.parametrize("field", ["policy", "method", "round", "split", "outcomes", "cost"])
def test_records_with_a_field_missing(field):
    record = result_of(played("toy/1")).to_record()
    del record[field]
    with pytest.raises(StoreError, match="malformed"):
        EvalResult.from_record(record)


def test_newly_solved():
    def won(*tasks):
        return result_of(
            *(played(f"toy/{number}", reward=float(number in tasks)) for number in range(6))
        )

    assert newly_solved(won(0, 1, 2), [won(1), won(2, 3)]) == {"toy/0"}
    assert newly_solved(won(0, 1), []) == {"toy/0", "toy/1"}
    assert newly_solved(won(), [won(1)]) == frozenset()
