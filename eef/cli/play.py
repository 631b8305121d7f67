"""`eef play`: play an environment by hand; a person is an expert like any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from eef.cli.console import handle_interrupt, print_err, print_out
from eef.cli.options import EnvOverrides, env_options
from eef.env import Env, toolset_of
from eef.envs.registry import make_env
from eef.errors import ConfigError, DataError
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.react import format_completion
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.tools import Toolset
from eef.trajectory import Author, Trajectory, TrajectorySet
from eef.utils.jsonl import append_jsonl, disk_errors, read_jsonl, repair_tail

_QUIT = ("quit", "exit")


class Person:
    """A policy that shows each observation and reads an action, with a thought if one is given.

    A line that starts with `#` is the thought of the action after it. The end of the input or
    `quit` ends the episode.
    """

    replays: Replays = "alone"

    def __init__(self, author: Author, tools: Toolset | None) -> None:
        self.author = author
        self.has_quit = False
        self._tools = tools

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [self._turn(conversation) for conversation in conversations]

    def _turn(self, conversation: Conversation) -> Completion:
        print_out(f"\n{conversation[-1]['content']}")
        thoughts: list[str] = []
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                line = _QUIT[0]
            if line in _QUIT:
                self.has_quit = True
                return Completion(text="", finish="done")
            if line.startswith("#"):
                thoughts.append(line.removeprefix("#").strip())
            elif line:
                return Completion(text=format_completion(" ".join(thoughts), self._action(line)))

    def _action(self, line: str) -> str:
        """The action of a line; words are said to the user if the environment has one."""
        if self._tools is None or not self._tools.text_action or self._tools.call_of(line):
            return line
        return f"{self._tools.text_action}[{line}]"


def play_by_hand(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="An environment, e.g. `toy`.", show_default=False),
    ],
    overrides: EnvOverrides = None,
    split: Annotated[str, typer.Option(help="The split whose tasks are played.")] = "train",
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="How many tasks to play.")] = 1,
    author: Annotated[str, typer.Option(help="Your name as the expert.")] = "person",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the episodes are appended.  [default: NAME-AUTHOR.jsonl]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Play an environment by hand, as an expert.

    Shows what an agent sees, and reads one action per line; a line that starts with `#` is the
    thought of the next action. `quit` or the end of the input stops and discards the unfinished
    episode. Tasks that the file already has are skipped. A recipe uses the file as an expert:
    `expert.names = ["file/toy-person.jsonl"]`. Prints its path.

    Example: `eef play toy --tasks 3`
    """
    if not author.strip() or re.search(r"[/\x00-\x1f]", author):
        raise ConfigError(f"`--author` is {author!r}; expected a name without `/`")
    env = make_env(name, env_options(overrides))
    file = out or Path(f"{env.name}-{author}.jsonl")
    _check_writable(file)
    with closing(env), handle_interrupt("stopped"):
        played = {item.task for item in _recorded(file)}
        person = Person(Author("expert", author), toolset_of(env) if env.tools else None)
        left = [task for task in env.tasks(split) if task.id not in played][:tasks]
        print_out(env.prompt)
        for number, task in enumerate(left, start=1):
            print_err(f"task {number} of {len(left)}: {task.id}")
            spec = RolloutSpec(f"{person.author}/{task.id}", task, None, 0, 0)
            (item,) = _play(env, person, spec)
            if person.has_quit:
                break
            if item.status == "error":
                print_err(f"not recorded; the next call offers the task again: {item.error}")
                continue
            append_jsonl(file, item.to_record())
            print_out(f"\n{item.final_observation}")
            print_err(f"reward {item.reward or 0:g}, {'won' if item.success else 'not won'}")
    if not file.exists():
        raise DataError(
            "no episode was played to its end",
            hint="finish one: the file holds only finished episodes",
        )
    print_out(str(file))


def _play(env: Env, person: Person, spec: RolloutSpec) -> list[Trajectory]:
    parameters = RolloutParameters(sampling=Sampling(), step_limit=env.step_limit)
    return list(
        play([spec], env=env, policy=person, trajectories=TrajectorySet(), parameters=parameters)
    )


def _check_writable(file: Path) -> None:
    """Make the directory of a file, and complete its last line; StoreError if it cannot be written.

    An episode that was played to its end must not be lost.
    """
    existed = file.exists()
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
        if existed:
            repair_tail(file)
        else:
            file.unlink()


def _recorded(file: Path) -> list[Trajectory]:
    return [Trajectory.from_record(row) for row in read_jsonl(file)] if file.exists() else []
