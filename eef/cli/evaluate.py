"""`eef evaluate`: evaluate a model in an environment, without a run."""

from __future__ import annotations

import re
from contextlib import closing
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eef.analysis.stats import wilson_interval
from eef.cli.console import handle_interrupt, print_err, print_out
from eef.cli.options import EnvOverrides, env_options
from eef.config import parse_settings
from eef.env import Env
from eef.errors import ConfigError, EnvError
from eef.pipeline.context import RunContext
from eef.pipeline.experts import make_expert_policy
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.policy import Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import append_jsonl, disk_errors, write_jsonl
from eef.utils.seeds import derive_seed

_PROVIDERS = ("scripted/", "hf/", "openai/")


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A directory, `hf/<hub id>`, `openai/<model>` or `scripted/<preset>`.",
            show_default=False,
        ),
    ],
    env: Annotated[
        str, typer.Option("--env", metavar="NAME", help="The environment.", show_default=False)
    ],
    overrides: EnvOverrides = None,
    split: Annotated[str, typer.Option(help="The split to evaluate on.")] = "test",
    tasks: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N tasks.", show_default=False),
    ] = None,
    format: Annotated[
        Literal["react", "tools"], typer.Option(help="How the agent acts: `chat.format`.")
    ] = "react",
    temperature: Annotated[float, typer.Option(min=0, help="Temperature; 0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per completion.")] = 256,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the server of an `openai/…` model, including `/v1`.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The output directory.  [default: evaluations/ENV/MODEL, and -SPLIT]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Evaluate a model in an environment.

    Plays every task of a split once and prints the win rate with its 95 % interval. Needs no run.
    The rollouts are written to `rollouts.jsonl`, a file of trajectories that `eef import` reads;
    the responses of a server are stored next to it and are not requested again. Prints the path of
    the file.

    Example: `eef evaluate scripted/strong --env toy --tasks 5`
    """
    if not isfinite(temperature):
        raise ConfigError(f"`--temperature` is {temperature}", hint="give a finite number")
    name = model if model.startswith(_PROVIDERS) else f"hf/{model}"
    recipe = _recipe(name, env, env_options(overrides), split, tasks, format, base_url)
    part = _folder(model) if split == "test" else f"{_folder(model)}-{_folder(split)}"
    directory = out or Path("evaluations") / _folder(recipe.env.name) / part
    context = RunContext(RunDirectory(directory, recipe))
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    file = directory / "rollouts.jsonl"
    items: list[Trajectory] = []
    stopped = f"stopped; the rollouts so far are in {file}"
    with closing(context.env), handle_interrupt(stopped):
        _check_request(context.env, split, tasks, format)
        policy = make_expert_policy(context, name)
        found = [
            RolloutSpec(f"{policy.author}/{task.id}", task, None, derive_seed(task.id), 0)
            for task in context.test_tasks
        ]
        parameters = RolloutParameters(
            sampling=sampling,
            step_limit=context.step_limit,
            batch_size=recipe.rollouts.batch_size,
            thoughts=recipe.chat.thoughts,
        )
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        _keep_earlier(file)
        write_jsonl(file, ())
        for item in play(
            found,
            env=context.env,
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=parameters,
        ):
            append_jsonl(file, item.to_record())
            items.append(item)
    if items and all(item.status == "error" for item in items):
        raise EnvError(
            f"{name}: all {len(items)} rollouts failed, the first with: {items[0].error}",
            hint=f"`{file}` has the errors of all",
        )
    _print_score(name, items)
    print_out(str(file))


def _check_request(env: Env, split: str, tasks: int | None, format: str) -> None:
    """ConfigError, which names the option, for what the environment does not have."""
    if format == "tools" and not env.tools:
        raise ConfigError(
            f"environment {env.name!r} declares no tools", hint="use `--format react`"
        )
    found = len(env.tasks(split))
    if tasks is not None and tasks > found > 0:
        raise ConfigError(
            f"`--tasks` is {tasks}; split {split!r} has {found} tasks",
            hint=f"lower it to {found}",
        )


def _keep_earlier(file: Path) -> None:
    """Rename the rollouts of an earlier evaluation, which this one does not continue."""
    if file.exists() and file.stat().st_size:
        numbers = (file.with_name(f"{file.stem}-{number}.jsonl") for number in count(1))
        earlier = next(path for path in numbers if not path.exists())
        file.rename(earlier)
        print_err(f"note: the rollouts of an earlier evaluation are now in {earlier}")


def _folder(name: str) -> str:
    """A name of a model or an environment as that of a directory."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "_"


def _recipe(
    name: str,
    env: str,
    options: dict[str, Any],
    split: str,
    tasks: int | None,
    format: str,
    base_url: str | None,
) -> Recipe:
    """The recipe that describes an evaluation. No other stage of it is executed."""
    if base_url and not name.startswith("openai/"):
        raise ConfigError("`--base-url` has no effect without `openai/…`", hint="remove it")
    expert: dict[str, Any] = {
        "names": [name],
        **({"api": {"base_url": base_url}} if base_url else {}),
    }
    settings = {
        "name": "evaluation",
        "env": {"name": env, **options},
        "expert": expert,
        "chat": {"format": format},
        "evaluate": {"split": split},
        **({"tasks": {"test": tasks}} if tasks else {}),
    }
    return parse_settings(Recipe, settings, source="eef evaluate")


def _print_score(name: str, items: list[Trajectory]) -> None:
    failed = [item for item in items if item.status == "error"]
    wins = sum(item.success for item in items)
    for item in failed:
        print_err(f"failed: {item.task}: {item.error}")
    low, high = wilson_interval(wins, len(items))[:2]
    reward = sum(item.reward or 0.0 for item in items) / len(items)
    counted = f"; {len(failed)} failed and count as lost" if failed else ""
    print_err(
        f"{name}: won {wins} of {len(items)} tasks ({100 * wins / len(items):.1f} %, 95 % "
        f"interval {100 * low:.1f} to {100 * high:.1f}), mean reward {reward:.3f}{counted}"
    )
