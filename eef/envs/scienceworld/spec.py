"""ScienceWorld's entry in the registry of environments."""

from __future__ import annotations

from eef.envs.scienceworld.behaviors import BEHAVIORS
from eef.envs.scienceworld.env import ScienceWorld
from eef.envs.scienceworld.settings import ScienceWorldSettings
from eef.envs.scienceworld.tasks import held_out_part
from eef.envs.simulators.gold_paths import make_gold_expert
from eef.envs.spec import EnvSpec, group_in_id

SPEC = EnvSpec(
    settings=ScienceWorldSettings,
    make=ScienceWorld,
    make_expert=make_gold_expert,
    behaviors=BEHAVIORS,
    group_of=group_in_id,
    held_out_part=held_out_part,
)
