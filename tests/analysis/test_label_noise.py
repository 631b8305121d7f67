"""Label noise: expected rates equal those over all subsets, and a measurement is resumed."""

from __future__ import annotations

import json
import shutil
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.analysis.label_noise import LabelNoise, StateCount, measure_noise, read_noise
from eef.analysis.stats import chance_of_wins
from eef.errors import StoreError
from eef.pipeline.pipeline import Pipeline
from eef.utils.progress import Progress
from tests.fakes.small_run import eef, small_recipe, write_recipe


@st.composite
def measurements(draw):
    rollouts = draw(st.integers(3, 6))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    return LabelNoise(
        1,
        tuple(
            StateCount(f"e{place}", t, draw(st.integers(0, rollouts)), rollouts)
            for place, size in enumerate(sizes)
            for t in range(size)
        ),
    )


def ok(outcomes, rule):
    return any(outcomes) if rule == "any" else 2 * sum(outcomes) >= len(outcomes)


def drawn(state, n, rule):
    """The labels of all ways to draw n of a state's rollouts."""
    ends = [index < state.wins for index in range(state.rollouts)]
    return [ok(chosen, rule) for chosen in combinations(ends, n)]


@given(measurements(), st.integers(1, 3), st.sampled_from(["any", "majority"]))
def test_rates_are_those_of_all_draws(noise, n, rule):
    truths = [2 * state.wins >= state.rollouts for state in noise.states]
    labels = [drawn(state, n, rule) for state in noise.states]
    false = [
        sum(label != truth for label in each) / len(each)
        for each, truth in zip(labels, truths, strict=True)
    ]
    rates = noise.false_rates(n, rule)
    assert rates.states == pytest.approx(sum(false) / len(false))
    wrong = []
    given, untrue = {1: 0.0, -1: 0.0}, {1: 0.0, -1: 0.0}
    for left, right in pairwise(range(len(noise.states))):
        if noise.states[left].trajectory == noise.states[right].trajectory:
            ends = [after - before for before, after in product(labels[left], labels[right])]
            truth = truths[right] - truths[left]
            wrong.append(sum(end != truth for end in ends) / len(ends))
            for label in (1, -1):
                given[label] += sum(end == label for end in ends) / len(ends)
                untrue[label] += sum(end == label != truth for end in ends) / len(ends)
    assert rates.segments == (pytest.approx(sum(wrong) / len(wrong)) if wrong else None)
    for label, part in ((1, rates.beneficial), (-1, rates.harmful)):
        assert part == (pytest.approx(untrue[label] / given[label]) if given[label] else None)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_state_that_is_always_won_or_lost_has_no_false_label(wins, rollouts, n):
    rollouts = max(rollouts, n)
    sure = LabelNoise(1, (StateCount("e", 0, 0, rollouts), StateCount("e", 2, rollouts, rollouts)))
    assert sure.false_rates(n, "majority") == (0, 0, 0, None)
    assert chance_of_wins(min(wins, rollouts), rollouts, n, 0) == 1


def test_a_record_is_read_as_it_was_written():
    noise = LabelNoise(2, (StateCount("e", 0, 3, 20), StateCount("e", 4, 18, 20)))
    assert LabelNoise.from_record(noise.to_record()) == noise
    with pytest.raises(StoreError, match="version 7"):
        LabelNoise.from_record({"version": 7})
    with pytest.raises(StoreError, match="malformed"):
        LabelNoise.from_record({"version": 1, "round": 1})


@pytest.fixture(scope="module")
def played(student, tmp_path_factory):
    """A run of `eef` in the toy, after one round."""
    place = tmp_path_factory.mktemp("noise")
    settings = small_recipe(student, methods=["rft4", "eef"], train={"updates": 2})
    done = eef(
        "run", write_recipe(place / "small.json", settings), "--out", place / "run", "--quiet"
    )
    assert done.exit_code == 0, done.stderr
    return place / "run"


def test_states_are_played_and_counted(played):
    done = eef("label-noise", played, "--trajectories", 2, "--rollouts", 4)
    assert done.exit_code == 0, done.stderr
    pipeline = Pipeline.open(played)
    run = pipeline.run
    noise = read_noise(run.read(), "eef")
    assert noise is not None
    assert len({state.trajectory for state in noise.states}) == 2
    assert {state.rollouts for state in noise.states} == {4}
    failed = {item.id for item in run.trajectories("expert") if not item.success}
    assert {state.trajectory for state in noise.states} <= failed
    assert f"{len(noise.states)} states of round 1" in done.stdout
    before = (played / "eef/round1/noise/trajectories.jsonl").read_bytes()
    reports: list[Progress] = []
    again = measure_noise(
        pipeline, "eef", 1, trajectories=2, rollouts=4, on_progress=reports.append
    )
    assert again == noise, "nothing is played twice"
    assert (played / "eef/round1/noise/trajectories.jsonl").read_bytes() == before
    assert [(each.done, each.total) for each in reports] == [(4 * len(noise.states),) * 2]


def test_nothing_is_measured_in_another_environment(played, tmp_path):
    shutil.copytree(played, tmp_path / "run")
    path = tmp_path / "run/fingerprint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompt": "another"}))
    done = eef("label-noise", tmp_path / "run", "--trajectories", 2, "--rollouts", 4)
    assert done.exit_code == 2
    assert "another environment (it differs in: prompt)" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "rft4"), "branches from no expert trajectory"),
        (("--method", "eto"), "unknown method 'eto'"),
        (("--round", 2), "has no round 2 to explore"),
    ],
)
def test_a_stage_without_labels_is_named(played, options, message):
    done = eef("label-noise", played, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_without_failures_of_the_expert_there_is_nothing_to_measure(student, tmp_path):
    settings = small_recipe(
        student, methods=["eef"], train={"updates": 1}, expert={"names": ["scripted/flawless"]}
    )
    recipe = write_recipe(tmp_path / "small.json", settings)
    assert eef("run", recipe, "--out", tmp_path / "run", "--quiet").exit_code == 0
    done = eef("label-noise", tmp_path / "run")
    assert done.exit_code == 2
    assert "hint: the expert failed no task" in done.stderr
