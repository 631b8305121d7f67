"""Records: there and back again; paths, states and provenance in a set of trajectories."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given

from eef.errors import StoreError
from eef.selection import TrainingExample
from eef.trajectory import Author, StateRef, Trajectory, TrajectorySet
from tests.fakes.records import recorded
from tests.fakes.strategies import families, trajectories


@pytest.fixture
def family() -> TrajectorySet:
    return TrajectorySet(
        [
            recorded("e", *"abcdef"),
            recorded("b", "x", "y", start=StateRef("e", 4), author=Author("student", "p")),
            recorded("c", "z", start=StateRef("b", 5), author=Author("student", "q")),
        ]
    )


@given(trajectories())
def test_a_record_comes_back_as_it_was(trajectory):
    assert Trajectory.from_record(json.loads(json.dumps(trajectory.to_record()))) == trajectory


@given(trajectories(start=StateRef("origin", 3)))
def test_a_branch_counts_its_prefix(trajectory):
    assert trajectory.first == 3
    assert trajectory.length == 3 + len(trajectory.steps)
    assert Trajectory.from_record(trajectory.to_record()) == trajectory


@pytest.mark.parametrize("field", ["id", "task", "author", "steps", "final_observation", "status"])
def test_a_record_without_a_field_is_refused_by_name(field):
    record = recorded("e", "a").to_record()
    del record[field]
    with pytest.raises(StoreError, match=field):
        Trajectory.from_record(record)


def test_unknown_fields_and_versions_are_refused():
    record = recorded("e", "a").to_record()
    with pytest.raises(StoreError, match="colour"):
        Trajectory.from_record({**record, "colour": "red"})
    with pytest.raises(StoreError, match="version 99"):
        Trajectory.from_record({**record, "version": 99})


def test_a_path_joins_branches_of_branches_with_their_authors(family):
    path = family.path("c")
    assert [item.step.action for item in path] == ["a", "b", "c", "d", "x", "z"]
    assert [item.author for item in path] == [Author("expert", "e")] * 4 + [
        Author("student", "p"),
        Author("student", "q"),
    ]
    assert [item.trajectory for item in path] == ["e"] * 4 + ["b", "c"]


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (StateRef("c", 0), "before a"),
        (StateRef("c", 3), "before d"),
        (StateRef("c", 4), "before x"),
        (StateRef("c", 5), "before z"),
        (StateRef("c", 6), "end of c"),
        (StateRef("b", 6), "end of b"),
        (StateRef("e", 4), "before e"),
    ],
)
def test_the_observation_of_a_state_comes_from_whoever_acts_in_it(family, state, seen):
    assert family.observation_at(state) == seen


@given(families())
def test_every_state_of_every_path_can_be_looked_up(family):
    held = TrajectorySet(family)
    for trajectory in held:
        path = held.path(trajectory.id)
        assert len(path) == trajectory.length
        for t in range(trajectory.first, trajectory.length):
            assert held.observation_at(StateRef(trajectory.id, t)) == path[t].step.observation
            assert held.path_to(StateRef(trajectory.id, t)) == path[:t]
        if trajectory.start is not None:
            assert held.path_to(trajectory.start) == path[: trajectory.first]


def test_a_set_refuses_what_it_cannot_place(family):
    with pytest.raises(StoreError, match="twice"):
        family.add(recorded("e", "a"))
    with pytest.raises(StoreError, match="unknown nobody@0"):
        family.add(recorded("d", "a", start=StateRef("nobody", 0)))
    with pytest.raises(StoreError, match="outside its origin: e@7"):
        family.add(recorded("d", "a", start=StateRef("e", 7)))
    with pytest.raises(StoreError, match="6 steps"):
        family.path_to(StateRef("e", 7))
    with pytest.raises(StoreError, match="no trajectory 'd'"):
        family["d"]
    assert len(family) == 3


def test_a_set_lists_by_task_in_order_of_arrival(family):
    family.add(replace(recorded("f", "a"), task="toy/0"))
    assert family.tasks() == ["toy/1", "toy/0"]
    assert [each.id for each in family.of_task("toy/1")] == ["e", "b", "c"]
    assert family.of_task("toy/7") == []


def test_a_training_example_comes_back_and_needs_a_reason_for_each_weight():
    example = TrainingExample(
        id="x",
        task="toy/1",
        trajectory="c",
        state=4,
        weights=(0.0, 1.0),
        reasons=("context", "student-win"),
        evidence=("c",),
    )
    assert TrainingExample.from_record(json.loads(json.dumps(example.to_record()))) == example
    with pytest.raises(StoreError, match="2 weights, 1 reasons"):
        replace(example, reasons=("context",))
