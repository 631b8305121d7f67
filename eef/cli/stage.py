"""`eef stage`: execute one stage of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from eef.cli.console import print_out
from eef.cli.execution import execute_stages, open_pipeline
from eef.cli.options import MethodName, Quiet, Ranks, RunPath, with_ranks
from eef.config import unknown_name
from eef.errors import ConfigError
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage, StageKind


def stage(
    kind: Annotated[
        StageKind, typer.Argument(help="The kind of stage.", metavar="KIND", show_default=False)
    ],
    directory: RunPath,
    method: MethodName = None,
    round: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Only this round; 0 is behavior cloning.  [default: the next of each method]",
            show_default=False,
        ),
    ] = None,
    ranks: Ranks = None,
    quiet: Quiet = False,
) -> None:
    """Execute one stage of a run.

    KIND is one of: `collect` (experts play the training tasks), `explore` (the student of the
    previous round plays what a method plans), `select` (a method chooses what to train on), `train`
    (the student is trained on it) and `evaluate` (the student, or with `--method expert` the
    expert, plays the test tasks). The stages it depends on must be done. Prints the run directory.

    Example: `eef stage explore runs/demo --method eef --round 1`
    """
    stages = choose_stages(RunDirectory.open(directory), kind, method, round)
    pipeline = open_pipeline(directory, quiet=quiet, overrides=with_ranks(None, ranks))
    execute_stages(pipeline, stages, quiet=quiet)
    print_out(str(directory))


def choose_stages(
    run: RunDirectory, kind: StageKind, method: str | None, round: int | None
) -> list[Stage]:
    """The stages of a kind, of one method or all, of one round or each method's first that is not
    done.

    ConfigError if the run has no such method or round.
    """
    of_kind = [stage for stage in run.stages if stage.kind == kind]
    of_method = [stage for stage in of_kind if method in (None, stage.method)]
    if not of_method:
        methods = dict.fromkeys(stage.method for stage in of_kind)
        if method in {stage.method for stage in run.stages}:
            raise ConfigError(
                f"`{method}` has no stage `{kind}`",
                hint=f"methods that have it: {', '.join(methods)}",
            )
        raise unknown_name("method", str(method), list(methods))
    if round is None:
        missing = [stage for stage in of_method if not run.is_done(stage)]
        return list({stage.method: stage for stage in reversed(missing)}.values())[::-1]
    chosen = [stage for stage in of_method if stage.round == round]
    if not chosen:
        rounds = dict.fromkeys(str(stage.round) for stage in of_method)
        name = f"`{method}`" if method else "this run"
        raise ConfigError(
            f"{name} has no round {round} to {kind}", hint=f"its rounds: {', '.join(rounds)}"
        )
    return chosen
