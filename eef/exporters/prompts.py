"""States as initial prompts: other trainers explore from the states that a method explores from.

A row holds the conversation up to a state, and the actions and observations that lead there. A
server (`eef env serve`) opens a session in that state by replaying the actions and comparing every
observation (`POST /restore`).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eef.chat import Thoughts, build_conversation
from eef.config import unknown_name
from eef.exporters import trl_grpo
from eef.exporters.directory import write_export
from eef.exporters.tables import write_table
from eef.policy import Conversation
from eef.selection import PlannedState
from eef.task import Task
from eef.trajectory import Step, TrajectorySet
from eef.utils.jsonl import disk_errors, write_jsonl, write_text
from eef.utils.records import Json

_TRL_README = """\
# {count} for TRL's GRPO

`prompts.jsonl` holds a row per state: `prompt` (the conversation up to it), `task` and
`task_index`, `state` (`trajectory@step`, or null for the task's start), `actions` and
`observations` that lead there, the episode's `seed`, and `steps_left`. `train.py` trains with TRL's
GRPOTrainer from these states:

```
eef env serve {env} {settings}
python train.py --model {model} --server http://127.0.0.1:PORT
```

Serve the environment with the settings of the run. A session is opened in a state by replaying its
actions and comparing every observation; a different environment is refused. Observations are
masked. The reward is the score of the whole episode, including the steps before the state.
`train.py` needs `trl` and nothing of `eef`, and generates with the model's own `generate`: replace
`_generate` to use an inference server.
"""

_VERL_README = """\
# {count} for verl

`prompts.parquet` has the columns of verl's RLHFDataset: `data_source`, `prompt`, `ability`,
`reward_model` and `extra_info`. `extra_info.interaction_kwargs` holds what an interaction needs to
open a session at a server (`eef env serve {env} {settings}`): `task_index`, `actions`,
`observations` and `seed` for `POST /restore`, and `steps_left`. The reward of an episode is the
`score` that its last `POST /step` returns; `eef` writes no interaction class for verl.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePrompt:
    """A state to act from: its conversation, and the actions and observations that lead there.

    `observations` has one entry more than `actions`: the last is the state's own. `seed` is that of
    the episode, for environments that are seeded.
    """

    prompt: Conversation
    task: str
    task_index: int
    state: str | None
    actions: tuple[str, ...]
    observations: tuple[str, ...]
    steps_left: int
    seed: int = 0

    def to_row(self) -> Json:
        return {
            "prompt": self.prompt,
            "task": self.task,
            "task_index": self.task_index,
            "state": self.state,
            "actions": list(self.actions),
            "observations": list(self.observations),
            "steps_left": self.steps_left,
            "seed": self.seed,
        }


def state_prompts(
    states: Sequence[PlannedState],
    trajectories: TrajectorySet,
    tasks: Mapping[str, Task],
    starts: Callable[[Task], tuple[str, int]],
    *,
    prompt: str,
    prompt_suffix: str = "",
    step_limit: int,
    reset_step_limit: bool = False,
    thoughts: Thoughts = "kept",
) -> list[StatePrompt]:
    """The states of a plan as prompts, each once.

    `starts(task)` is what the environment shows at a task's start, and the seed of the episodes
    that start there. `step_limit`, or a task's own lower one, bounds a path, its recorded steps
    included unless `reset_step_limit`.
    """
    rows = []
    for item in dict.fromkeys(replace(each, count=1) for each in states):
        task = tasks[item.task]
        limit = min(step_limit, task.step_limit or step_limit)
        if item.state is None:
            steps: list[Step] = []
            now, seed = starts(task)
        else:
            seed = trajectories[item.state.trajectory].episode_seed or 0
            steps = [each.step for each in trajectories.path_to(item.state)]
            now = trajectories.observation_at(item.state)
        conversation = build_conversation(
            prompt,
            steps,
            now,
            prompt_suffix=item.prompt_suffix or prompt_suffix,
            thoughts=thoughts,
        )
        rows.append(
            StatePrompt(
                prompt=conversation,
                task=task.id,
                task_index=task.index,
                state=str(item.state) if item.state else None,
                actions=tuple(step.action for step in steps),
                observations=(*(step.observation for step in steps), now),
                steps_left=limit if reset_step_limit else limit - len(steps),
                seed=seed,
            )
        )
    return rows


def export_prompts(
    name: str,
    prompts: Sequence[StatePrompt],
    directory: Path,
    *,
    env: str,
    env_settings: Json,
    model: str,
) -> list[Path]:
    """Write the files of a trainer; returns their paths.

    ConfigError for a trainer that takes no prompts, StoreError as in `write_export`.
    """
    if name not in WRITERS:
        raise unknown_name("target of prompts", name, WRITERS)
    count = f"{len(prompts):,} state{'' if len(prompts) == 1 else 's'}"
    settings = " ".join(f"--set {shlex.quote(each)}" for each in _flat(env_settings))

    def write(unfinished: Path) -> None:
        readme = WRITERS[name](prompts, unfinished, env)
        text = readme.format(count=count, env=env, settings=settings, model=model)
        write_text(unfinished / "README.md", text)

    return write_export(directory, f"{name} prompts", write)


def _trl(prompts: Sequence[StatePrompt], directory: Path, env: str) -> str:
    write_jsonl(directory / "prompts.jsonl", (each.to_row() for each in prompts))
    with disk_errors(directory):
        shutil.copyfile(Path(trl_grpo.__file__), directory / "train.py")
    return _TRL_README


def _verl(prompts: Sequence[StatePrompt], directory: Path, env: str) -> str:
    rows = []
    for index, each in enumerate(prompts):
        row = each.to_row()
        conversation = row.pop("prompt")
        rows.append(
            {
                "data_source": f"eef/{env}",
                "prompt": conversation,
                "ability": "agent",
                "reward_model": {"style": "rule", "ground_truth": ""},
                "extra_info": {"index": index, "interaction_kwargs": {"name": "eef", **row}},
            }
        )
    write_table(directory / "prompts.parquet", rows)
    return _VERL_README


WRITERS: dict[str, Callable[[Sequence[StatePrompt], Path, str], str]] = {
    "trl": _trl,
    "verl": _verl,
}
"""Trainers that start in recorded states, with the function that writes their files."""


def _flat(settings: Json, before: str = "") -> list[str]:
    """The settings that are set, as `dotted.key=value`; lists and booleans are JSON."""
    flat: list[str] = []
    for key, value in settings.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{before}{key}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            flat.append(f"{before}{key}={text}")
    return flat
