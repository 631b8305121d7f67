"""`eef evaluate`: evaluate a model in an environment, or a checkpoint of a run on any split."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
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
from eef.pipeline.run_directory import RECIPE_FILE, RunDirectory
from eef.pipeline.stages import BC, Stage
from eef.policy import Policy
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.task import TaskSet
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
        str | None,
        typer.Option(
            "--env",
            metavar="NAME",
            help="The environment.  [default: that of the run whose checkpoint MODEL is]",
            show_default=False,
        ),
    ] = None,
    overrides: EnvOverrides = None,
    split: Annotated[str, typer.Option(help="The split to evaluate on.")] = "test",
    tasks: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N tasks.", show_default=False),
    ] = None,
    format: Annotated[
        Literal["react", "tools"] | None,
        typer.Option(help="How the agent acts: `chat.format`.  [default: react]"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Temperature; 0 is greedy.  [default: 0, or that of the run]"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens per completion.  [default: 256]")
    ] = None,
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

    A checkpoint of a run (`RUN/METHOD/round1/checkpoint`) is evaluated without `--env` as the run
    does it: with its environment, prompt, limits and number of tasks. So a round can be chosen on
    the tasks of `validation`, and only its student is then evaluated on those of `test`.

    Example: `eef evaluate scripted/strong --env toy --tasks 5`
    """
    if temperature is not None and not isfinite(temperature):
        raise ConfigError(f"`--temperature` is {temperature}", hint="give a finite number")
    if env is None:
        given = {
            "--set": overrides,
            "--format": format,
            "--max-tokens": max_tokens,
            "--base-url": base_url,
        }
        subject = _student_of_run(model, split, tasks, temperature, given)
        env = subject.context.recipe.env.name
        directory = out or _default_directory(model, env, split)
    else:
        settings = _Settings(split, tasks, format or "react", temperature or 0.0, max_tokens or 256)
        directory = out or _default_directory(model, env, split)
        subject = _model(model, env, env_options(overrides), settings, base_url, directory)
    file = directory / "rollouts.jsonl"
    items: list[Trajectory] = []
    stopped = f"stopped; the rollouts so far are in {file}"
    with closing(subject.context.env), handle_interrupt(stopped):
        _check_request(subject.context.env, split, tasks, subject.context.recipe.chat.format)
        policy = subject.policy()
        found = [
            RolloutSpec(
                f"{policy.author}/{task.id}",
                task,
                None,
                derive_seed(subject.context.recipe.seed, "evaluation", task.id),
                0,
                subject.prompt_suffix,
            )
            for task in subject.tasks()
        ]
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        _keep_earlier(file)
        write_jsonl(file, ())
        for item in play(
            found,
            env=subject.context.env,
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=subject.parameters,
        ):
            append_jsonl(file, item.to_record())
            items.append(item)
    if items and all(item.status == "error" for item in items):
        raise EnvError(
            f"{subject.name}: all {len(items)} rollouts failed, the first with: {items[0].error}",
            hint=f"`{file}` has the errors of all",
        )
    _print_score(subject.name, items)
    print_out(str(file))


@dataclass(frozen=True)
class _Subject:
    """What is evaluated, and how. `policy` loads the model, `tasks` those of the environment."""

    name: str
    context: RunContext
    policy: Callable[[], Policy]
    tasks: Callable[[], TaskSet]
    parameters: RolloutParameters
    prompt_suffix: str = ""


def _student_of_run(
    model: str,
    split: str,
    tasks: int | None,
    temperature: float | None,
    given: dict[str, Any],
) -> _Subject:
    """A student of a run, evaluated on a split as the run does it.

    ConfigError if MODEL is not a checkpoint of a run, if an option is one that the run sets, or if
    a role takes part in the method's evaluation.
    """
    found = _find_stage(Path(model))
    if found is None:
        raise ConfigError(
            f"`--env` is missing, and `{model}` is not a checkpoint of a run",
            hint="give `--env NAME`, or a directory like `RUN/eef/round1/checkpoint`",
        )
    run, stage = found
    for option, value in given.items():
        if value:
            raise ConfigError(
                f"`{option}` has no effect: `{run.path}` sets it for its checkpoints",
                hint=f"remove it, or give `--env {run.recipe.env.name}` and all that it needs",
            )
    if asked := run.roles_at_test(stage.method):
        raise ConfigError(
            f"`{stage.method}` asks {', '.join(f'`roles.{name}`' for name in asked)} at test time, "
            "which `eef evaluate` does not",
            hint=f"with `--env {run.recipe.env.name}`, the student is evaluated alone",
        )
    context = RunContext(run)
    parameters = context.parameters(stage.sibling("evaluate"))
    if temperature is not None:
        sampling = replace(parameters.sampling, temperature=temperature)
        parameters = replace(parameters, sampling=sampling)
    return _Subject(
        name=f"{stage.method} after round {stage.round}" if stage.round else stage.method,
        context=context,
        policy=lambda: context.student(stage),
        tasks=lambda: context.tasks_like(split, tasks),
        parameters=parameters,
        prompt_suffix=context.prompt_suffix(stage),
    )


def _find_stage(checkpoint: Path) -> tuple[RunDirectory, Stage] | None:
    """The run and the stage that trained a checkpoint; None for any other directory."""
    path = checkpoint.resolve()
    number = re.fullmatch(r"round(\d+)", path.parent.name)
    if path.name != "checkpoint" or not number or not (path.parents[2] / RECIPE_FILE).is_file():
        return None
    run = RunDirectory.open(path.parents[2])
    method = path.parents[1].name
    return (run, Stage(method, int(number[1]), "train")) if method in run.methods else None


@dataclass(frozen=True)
class _Settings:
    """How a model is evaluated in an environment that is given by its name."""

    split: str
    tasks: int | None
    format: str
    temperature: float
    max_tokens: int


def _model(
    model: str,
    env: str,
    options: dict[str, Any],
    settings: _Settings,
    base_url: str | None,
    directory: Path,
) -> _Subject:
    """A model in an environment that no run describes."""
    name = model if model.startswith(_PROVIDERS) else f"hf/{model}"
    recipe = _recipe(name, env, options, settings, base_url)
    context = RunContext(RunDirectory(directory, recipe))
    return _Subject(
        name=name,
        context=context,
        policy=lambda: make_expert_policy(context, name),
        tasks=lambda: context.test_tasks,
        parameters=context.parameters(Stage(BC, 0, "evaluate")),
    )


def _default_directory(model: str, env: str, split: str) -> Path:
    part = _folder(model) if split == "test" else f"{_folder(model)}-{_folder(split)}"
    return Path("evaluations") / _folder(env) / part


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
    name: str, env: str, options: dict[str, Any], settings: _Settings, base_url: str | None
) -> Recipe:
    """The recipe that describes an evaluation. No other stage of it is executed."""
    if base_url and not name.startswith("openai/"):
        raise ConfigError("`--base-url` has no effect without `openai/…`", hint="remove it")
    table = {
        "name": "evaluation",
        "env": {"name": env, **options},
        "expert": {"names": [name], **({"api": {"base_url": base_url}} if base_url else {})},
        "chat": {"format": settings.format},
        "sampling": {"max_tokens": settings.max_tokens},
        "evaluate": {"split": settings.split, "temperature": settings.temperature},
        "tasks": {"test": settings.tasks},
    }
    return parse_settings(Recipe, table, source="eef evaluate")


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
