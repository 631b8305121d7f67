"""Task groups: scores by part and by group of test tasks."""

from __future__ import annotations

from eef.analysis.task_groups import GroupScore, score_task_groups
from eef.pipeline.evaluation import first_attempts
from eef.trajectory import Author, Step, Trajectory


def ended(task, *rewards, status="terminated", suffix=""):
    steps = tuple(
        Step(observation="o", completion="Action: a", action="a", reward=reward)
        for reward in rewards
    )
    reward = None if status == "error" else max(0.0, sum(rewards))
    return Trajectory(
        id=f"evaluation/{task}{suffix}",
        task=task,
        author=Author("student", "p"),
        steps=steps,
        final_observation="",
        status=status,
        reward=reward,
        success=reward == 1.0,
    )


def test_scores_by_part_and_by_group():
    episodes = [
        ended("scienceworld/boil/14", 0.5, -1.5),
        ended("scienceworld/boil/21", 0.25, 0.75),
        ended("scienceworld/melt/21", -1.0),
        ended("scienceworld/melt/22", 0.7, status="error"),
    ]
    found = score_task_groups(episodes, "scienceworld")
    assert found.all == GroupScore(tasks=4, wins=1, mean_reward=0.25, mean_max_score=0.375)
    assert found.parts == {
        "seen": GroupScore(tasks=1, wins=0, mean_reward=0.0, mean_max_score=0.5),
        "unseen": GroupScore(tasks=3, wins=1, mean_reward=1 / 3, mean_max_score=1 / 3),
    }
    assert found.groups == {
        "boil": GroupScore(tasks=2, wins=1, mean_reward=0.5, mean_max_score=0.75),
        "melt": GroupScore(tasks=2, wins=0, mean_reward=0.0, mean_max_score=0.0),
    }
    assert found.mean_of_groups == 0.25
    assert score_task_groups([ended("toy/1", 1.0)], "toy") is None
    assert score_task_groups([], "scienceworld") is None


def test_a_second_attempt_replaces_a_failed_one():
    broken, again = (
        ended("scienceworld/boil/14", status="error"),
        ended("scienceworld/boil/14", 1.0, suffix="~1"),
    )
    counted = first_attempts([broken, again])
    assert score_task_groups(counted, "scienceworld").all.mean_reward == 1.0


def test_a_retry_after_a_known_loss_does_not_count():
    lost = ended("scienceworld/boil/14", 0.5)
    won = ended("scienceworld/boil/14", 1.0, suffix="#1")
    counted = first_attempts([lost, won])
    assert score_task_groups(counted, "scienceworld").all.mean_reward == 0.5


def test_a_first_attempt_that_failed_twice_counts_as_failed():
    broken = [ended("toy/1", status="error", suffix=suffix) for suffix in ("", "~1")]
    retries = [ended("toy/1", 1.0, suffix=suffix) for suffix in ("#1", "#1~1", "#10")]
    assert first_attempts([*broken, *retries]) == [broken[1]]
