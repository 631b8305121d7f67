"""States of ScienceWorld that another policy can continue from; needs no simulator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eef.envs.scienceworld.env import ScienceWorld
from eef.trajectory import Step

ENV = object.__new__(ScienceWorld)  # the rule reads recorded steps alone


def branch_states(turns):
    """The states from which another policy can continue, of turns (observation, action)."""
    steps = [Step(observation=seen, completion="", action=action) for seen, action in turns]
    return tuple(t for t in range(len(steps)) if ENV.can_branch_at(steps, t))


@given(
    st.lists(
        st.sampled_from(
            ["a room", "Ambiguous request: Please enter the number for the action you intended"]
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_state_that_awaits_a_clarification_is_not_branched_from(seen):
    found = branch_states([(each, "a") for each in seen])
    assert found == tuple(t for t, each in enumerate(seen) if each == "a room")


def test_a_question_stays_open_until_it_is_answered():
    turns = [
        ("a room", "open door"),
        ("Ambiguous request: 0 or 1?", ""),
        ("Format error", "reset task"),
        ("Refused", "TASK"),
        ("Your task is", "0"),
        ("It is open", "look around"),
        ("a room", "wait"),
    ]
    assert branch_states(turns) == (0, 5, 6)
