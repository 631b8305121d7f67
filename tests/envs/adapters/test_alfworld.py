"""The adapter of ALFWorld, on a small game in its own format (the real ones are a download)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("alfworld")

import alfworld

from eef.env_check import check_env
from eef.envs.registry import make_env
from eef.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")

PROBLEM = """
(define (problem plan)
 (:domain alfred)
 (:objects
  agent1 - agent
  loc_bar_0 loc_bar_1 loc_bar_2 - location
  Mug_bar__plus_00_dot_10 Apple_bar__plus_00_dot_20 - object
  Shelf_bar__plus_00_dot_30 Desk_bar__plus_00_dot_40 - receptacle
  MugType AppleType - otype
  ShelfType DeskType - rtype
 )
 (:init
  (atLocation agent1 loc_bar_0)
  (receptacleType Shelf_bar__plus_00_dot_30 ShelfType)
  (receptacleType Desk_bar__plus_00_dot_40 DeskType)
  (canContain ShelfType MugType) (canContain DeskType MugType)
  (canContain ShelfType AppleType) (canContain DeskType AppleType)
  (objectType Mug_bar__plus_00_dot_10 MugType)
  (objectType Apple_bar__plus_00_dot_20 AppleType)
  (pickupable Mug_bar__plus_00_dot_10) (pickupable Apple_bar__plus_00_dot_20)
  (receptacleAtLocation Shelf_bar__plus_00_dot_30 loc_bar_1)
  (receptacleAtLocation Desk_bar__plus_00_dot_40 loc_bar_2)
  (objectAtLocation Mug_bar__plus_00_dot_10 loc_bar_1)
  (objectAtLocation Apple_bar__plus_00_dot_20 loc_bar_1)
  (inReceptacle Mug_bar__plus_00_dot_10 Shelf_bar__plus_00_dot_30)
  (inReceptacle Apple_bar__plus_00_dot_20 Shelf_bar__plus_00_dot_30)
  (= (total-cost) 0)
  (= (distance loc_bar_0 loc_bar_1) 1) (= (distance loc_bar_1 loc_bar_0) 1)
  (= (distance loc_bar_0 loc_bar_2) 1) (= (distance loc_bar_2 loc_bar_0) 1)
  (= (distance loc_bar_1 loc_bar_2) 1) (= (distance loc_bar_2 loc_bar_1) 1)
 )
 (:goal (and (exists (?r - receptacle) (exists (?o - object)
  (and (inReceptacle ?o ?r) (objectType ?o MugType) (receptacleType ?r DeskType))))))
)
"""
WAY = ["go to shelf 1", "take mug 1 from shelf 1", "go to desk 1", "move mug 1 to desk 1"]


@pytest.fixture
def games(tmp_path):
    own = Path(alfworld.__file__).parent / "data"
    grammar = (own / "alfred.twl2").read_text().replace("UNKNOWN GOAL", "put a mug on the desk")
    game = {
        "pddl_domain": (own / "alfred.pddl").read_text(),
        "grammar": grammar,
        "pddl_problem": PROBLEM,
        "solvable": True,
        "walkthrough": WAY,
    }
    kind = "pick_and_place_simple-Mug-None-Desk-1"
    for split, trial, solvable in (
        ("train", "t1", True), ("train", "t2", True), ("train", "t3", False),
        ("valid_unseen", "t4", True),
    ):  # fmt: skip
        directory = tmp_path / "json_2.1.1" / split / kind / trial
        directory.mkdir(parents=True)
        (directory / "game.tw-pddl").write_text(json.dumps({**game, "solvable": solvable}))
    return tmp_path


def test_it_keeps_the_protocol(games):
    env = make_env("alfworld", {"data": str(games)})
    assert [len(env.tasks(split)) for split in ("train", "test")] == [2, 1]
    [task] = env.tasks("test")
    assert task.id == "alfworld/pick_and_place_simple/0"
    assert task.instruction == "put a mug on the desk"
    assert "Your task is to: put a mug on the desk." in env.reset(task)
    assert env.step("dance").observation == "Nothing happens."
    found = check_env(env, actions=WAY, episodes=2)
    assert found.wins >= 2
    env.close()


def test_commands_are_shown_if_wanted(games):
    env = make_env("alfworld", {"data": str(games), "show_commands": True})
    assert "Possible commands: " in env.reset(env.tasks("train")[0])
    env.close()


def test_mistakes_are_one_line(games, tmp_path):
    with pytest.raises(ConfigError, match="no game in") as caught:
        make_env("alfworld", {"data": str(tmp_path / "none")})
    assert "alfworld-download" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown task type 'pick'"):
        make_env("alfworld", {"data": str(games), "task_types": ["pick"]})
