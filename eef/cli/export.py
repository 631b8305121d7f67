"""`eef export`: export training examples for other trainers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from eef.cli.console import handle_interrupt, print_err, print_out
from eef.cli.options import MethodName, RunPath, check_method_and_round
from eef.errors import ConfigError, StoreError
from eef.exporters.logs import LOGS, Played, export_logs
from eef.exporters.prompts import export_prompts
from eef.exporters.targets import export as write_files
from eef.exporters.targets import find_target
from eef.methods.eef import grids_of
from eef.methods.labels import OutcomeGrid
from eef.models.location import locate
from eef.note import Shown
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, COLLECT, EXPERT, Stage, round_methods
from eef.report.formatting import count_of
from eef.trajectory import Trajectory
from eef.utils.compute import available_cores, process_settings


def export(
    directory: RunPath,
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="`trl`, `axolotl`, `llamafactory`, `llamafactory-v1`, `ms-swift`, `openai`, "
            "`together`, `agentgym`, `verl`, `prompt-completion`, `parquet` or `atif`; for viewers "
            "of rollouts `inspect` or `trackio`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the files are written.  [default: `export/TARGET/METHOD-roundN` in the run "
            "directory]",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Literal["examples", "prompts"],
        typer.Option(
            "--as",
            help="`examples` to imitate, or `prompts`: the states that a round explores from, with "
            "their replay (`trl`, `verl`).",
        ),
    ] = "examples",
    method: MethodName = None,
    round: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The round; 0 is behavior cloning.  [default: the last round that was selected]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export training examples for other trainers.

    A trainer that uses an export trains exactly the text that `eef` trains: each message states
    whether it is trained, and rows end after the last trained turn. A README beside the files
    explains how to train on them, and states where a trainer's chat template changes the text.
    An earlier export in the same directory is replaced; other files are never overwritten. Prints
    the paths of the files.

    `--as prompts` exports the states that a method explores from, including those inside the
    expert's failures. Each row holds the conversation up to a state and the actions to replay, with
    which `eef env serve` opens a session in that state.

    `--to inspect` and `--to trackio` write the rollouts of a round, including its evaluation, for
    the viewers of these tools: every rollout as a conversation, with labels and loss weights as
    metadata.

    Example: `eef export runs/demo --to trl --method eef --round 3`

    Example: `eef export runs/demo --to trl --as prompts --method eef`
    """
    run = RunDirectory.open(directory)
    if to in LOGS:
        _export_rollouts(run, to, out, method, round)
        return
    if form == "prompts":
        _export_prompts(run, to, out, method, round)
        return
    find_target(to)
    stage = _choose_selection(run, method, round)
    with handle_interrupt("stopped"), process_settings(available_cores()):
        examples, renderer = RunContext(run).rendered_examples(stage.method, stage.round)
        folder = out or directory / "export" / to / f"{stage.method}-round{stage.round}"
        exported = write_files(to, examples, folder, renderer)
    selection = run.selection(stage.method, stage.round)
    skipped = (len(selection.examples) if selection else 0) - len(examples)
    print_err(f"{count_of(len(examples), 'example')} of {stage.method}, round {stage.round}")
    for kind in ("pairs", "acts"):
        if items := getattr(selection, kind, ()):
            print_err(
                f"warning: {len(items):,} {kind} of this round are not exported: exports hold only "
                "examples"
            )
    if skipped:
        print_err(
            f"{count_of(skipped, 'example')} longer than the context: skipped, as in training"
        )
    if untrained := sum(each.untrained for each in examples):
        print_err(
            f"{count_of(untrained, 'turn')} cut at `sampling.max_tokens`: not trained in formats "
            "of messages, where a trainer would add an end of turn; trained in formats of tokens"
        )
    found = exported.comparison
    if found is not None and found.different:
        print_err(
            f"warning: the model's chat template, as `{to}` applies it, changes {found.different} "
            f"of {found.total} texts; `{folder / 'README.md'}` shows where"
        )
    for path in exported.files:
        print_out(str(path))


def _export_rollouts(
    run: RunDirectory, to: str, out: Path | None, method: str | None, round: int | None
) -> None:
    """Write what a round played, for a viewer."""
    chosen = EXPERT if method == EXPERT else None
    stage = COLLECT if chosen else _choose_selection(run, method, round)
    folder = out or run.path / "export" / to / f"{stage.method}-round{stage.round}"
    with handle_interrupt("stopped"):
        files = export_logs(to, list(_played(run, stage)), folder)
    for path in files:
        print_out(str(path))


def _played(run: RunDirectory, stage: Stage) -> Iterator[Played]:
    """The rollouts of a round: those that were explored or collected, then its evaluation's."""
    data, name, round = run.read(), stage.method, stage.round
    played = partial(Played, run.recipe.name, run.recipe.env.name, name, round)
    method = run.methods.get(name)
    explored = data.trajectories(name)

    def grids(task: str) -> Mapping[str, OutcomeGrid]:
        return grids_of(method, explored, task, round)

    def played_in(item: Trajectory) -> bool:  # by the student, or by an agent in its place
        return not item.by_expert and item.round == round

    def shown(at_test: bool) -> Shown:
        return method.acting(round, at_test=at_test).shown if method and round else "none"

    selection = data.selection(name, round) if name != EXPERT else None
    if name != BC:
        yield played(
            "collect" if name == EXPERT else "explore",
            trajectories=explored,
            names=[
                item.id
                for item in explored
                if (item.by_expert if name == EXPERT else played_in(item))
            ],
            grids=grids,
            examples=selection.examples if selection else (),
            advice=shown(at_test=False),
        )
    tests = data.evaluation_rollouts(name, round)
    yield played(
        "evaluate",
        trajectories=tests,
        names=[item.id for item in tests],
        grids=lambda task: {},
        advice=shown(at_test=True),
    )


def _export_prompts(
    run: RunDirectory, to: str, out: Path | None, method: str | None, round: int | None
) -> None:
    """Write the states that a round explores from."""
    check_method_and_round(run, method, round)
    run.require(COLLECT)
    methods = [name for name in round_methods(run.recipe) if method in (None, name)]
    if not methods or round == 0:
        raise ConfigError(
            "behavior cloning explores nothing", hint="choose another `--method` or `--round`"
        )
    if len(methods) > 1:
        raise ConfigError(
            f"several methods explore: {', '.join(methods)}", hint=f"add `--method {methods[-1]}`"
        )
    if run.recipe.chat.format == "tools":
        raise ConfigError(
            '`--as prompts` writes ReAct conversations, but `chat.format` is "tools"',
            hint="use `--as examples`, which keeps tool calls",
        )
    stage = Stage(methods[0], round or 1, "explore")
    folder = out or run.path / "export" / f"{to}-prompts" / f"{stage.method}-round{stage.round}"
    with handle_interrupt("stopped"):
        context = RunContext(run)
        prompts = context.state_prompts(stage)
        files = export_prompts(
            to,
            prompts,
            folder,
            env=run.recipe.env.name,
            env_settings=run.recipe.env.options,
            model=locate(run.recipe.model.name),
        )
    print_err(f"{count_of(len(prompts), 'state')} of {stage.method}, round {stage.round}")
    for path in files:
        print_out(str(path))


def _choose_selection(run: RunDirectory, method: str | None, round: int | None) -> Stage:
    """The selection of a method and round, by default the last of the only method that has any."""
    check_method_and_round(run, method, round)
    selected = [stage for stage in run.stages if stage.kind == "select" and run.is_done(stage)]
    matching = [stage for stage in selected if stage.is_of(method, round)]
    if not matching:
        known = ", ".join(f"`--method {stage.method} --round {stage.round}`" for stage in selected)
        raise StoreError(
            f"nothing is selected yet for {method or 'any method'}"
            + (f" in round {round}" if round is not None else ""),
            hint=f"selected so far: {known or 'nothing'}",
        )
    methods = list(dict.fromkeys(stage.method for stage in matching))
    if len(methods) > 1:
        raise ConfigError(
            f"several methods have selected examples: {', '.join(methods)}",
            hint=f"add `--method {methods[-1]}`",
        )
    return matching[-1]
