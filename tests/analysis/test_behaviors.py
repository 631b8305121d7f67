"""Behaviors: actions are counted by pattern, in won and in lost episodes."""

from __future__ import annotations

from typing import Any

from eef.analysis.behaviors import count_actions, count_behaviors
from eef.envs.registry import env_spec
from eef.tools import join_actions
from eef.trajectory import Author, Step, Trajectory


def test_shop_actions_are_counted_by_pattern():
    results_page = (
        "Instruction: [SEP] buy [SEP] Back to Search [SEP] Page 2 [SEP] < Prev [SEP] Next > [SEP] "
        "B000000001"
    )
    item_page = (
        "Back to Search [SEP] < Prev [SEP] size [SEP] Dark Red [SEP] Description [SEP] Buy Now"
    )
    actions = [
        ("Search", "search[red hat]"),
        (results_page, "click[Next >]"),
        (results_page, "click[B000000001]"),
        (item_page, "click[dark red]"),
        (item_page, "click[description]"),
        (item_page, "click[blue]"),
        (item_page, "click[< Prev]"),
        (results_page, "click[back to search]"),
        ("Search", "search[hat]"),
        (item_page, "click[next >]"),
        (item_page, ""),
        (item_page, "click[Buy Now]"),
    ]
    steps = [Step(observation=seen, completion="", action=action) for seen, action in actions]
    assert count_actions(steps, env_spec("webshop").behaviors) == {
        "Next": 1,
        "Prev": 1,
        "Back to Search": 1,
        "Another search": 1,
        "Options clicked": 1,
    }


def test_won_and_lost_episodes_are_counted_apart_and_failed_ones_ignored():
    def episode(actions: str, *, won: bool, status: Any = "terminated") -> Trajectory:
        steps = tuple(
            Step(observation="", completion="", action=action) for action in actions.split(",")
        )
        return Trajectory(
            id="x",
            task="t",
            author=Author("student", "x"),
            steps=steps,
            final_observation="",
            status=status,
            reward=float(won),
            success=won,
        )

    episodes = [
        episode("left,left", won=True),
        episode("right", won=True),
        episode("left", won=False, status="error"),
    ]
    uses = count_behaviors(episodes, "toy")
    assert (uses["won"].episodes, uses["won"].means["Step back"]) == (2, 1.0)
    assert (uses["lost"].episodes, uses["lost"].means["Step back"]) == (0, None)
    assert count_behaviors(episodes, "textworld-express") == {}


def test_each_call_of_a_turn_is_an_action():
    page = "Page 2 [SEP] < Prev [SEP] Next > [SEP] Back to Search"
    action = join_actions(["click[next >]", "click[back to search]"])
    step = Step(observation=page, completion="", action=action)
    counted = count_actions([step], env_spec("webshop").behaviors)
    assert (counted["Next"], counted["Back to Search"]) == (1, 1)
