"""Adapters of other packages: what they read before the package is needed."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from eef.envs.alfworld import _games
from eef.envs.openenv import OpenEnvSettings, _parameters


def test_games_are_found_below_any_directory(tmp_path):
    """Names of games exclude them, names of the user's directories do not."""
    directory = tmp_path / "removable" / "Sliced"
    for name in ("look_at_obj-A", "look_at_obj-movable", "look_at_obj-Sliced"):
        folder = directory / f"{name}-1" / "trial"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(json.dumps({"solvable": True}))
    found = _games(directory, ["look_at_obj"])
    assert [path.parent.parent.name for path in found] == ["look_at_obj-A-1"]


def test_a_schema_of_actions_may_have_no_properties():
    assert _parameters({"type": "object"}) == {"type": "object", "properties": {}}


def test_the_seed_of_an_episode_is_not_an_option():
    with pytest.raises(ValidationError, match="the seed of an episode is its task's index"):
        OpenEnvSettings(url="http://127.0.0.1:8000", options={"seed": 3})
