"""Exports: the commands that hand over what a run made – training files for other trainers, models for anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eef.cli.console import handle_interrupt, put, tell
from eef.cli.runs import Directory, Method
from eef.errors import ConfigError, StoreError
from eef.exporters.targets import export as write
from eef.exporters.targets import find_target
from eef.models.settings import DType
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.report.formatting import count_of
from eef.utils.compute import available_cores, process_settings

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of a run.", show_default=False)
]


def export(
    directory: Directory,
    to: Annotated[
        str,
        typer.Option(
            help="`trl`, `axolotl`, `llamafactory`, `llamafactory-v1`, `ms-swift`, `openai`, `together`, `agentgym`, "
            "`verl`, `prompt-completion`, `parquet` or `atif`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the files go; `DIR/export/<to>` when left out."),
    ] = None,
    method: Method = None,
    round: Annotated[
        int | None,
        typer.Option(
            min=0, help="This round; the last one selected when left out.", show_default=False
        ),
    ] = None,
) -> None:
    """Write what a round trains on as the files of another trainer.

    The text that carries loss there is the text that carries loss here: each message says whether it is trained, and
    rows end behind the last trained turn. A README beside the files says how they are trained on.

    Example: `eef export runs/demo --to trl --method eef --round 3`
    """
    find_target(to)
    run = RunDirectory.open(directory)
    stage = _chosen(run, method, round)
    with handle_interrupt("stopped"), process_settings(available_cores()):
        lessons, renderer = RunContext(run).rendered_examples(stage.method, stage.round)
        files = write(to, lessons, out or directory / "export" / to, renderer)
    selection = run.selection(stage.method, stage.round)
    left_out = (len(selection.examples) if selection else 0) - len(lessons)
    tell(f"{count_of(len(lessons), 'example')} of {stage.method}, round {stage.round}")
    if left_out:
        tell(f"{count_of(left_out, 'example')} left out, as in training: longer than the context")
    for path in files:
        put(str(path))


def merge(
    checkpoint: Checkpoint,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where the full model goes; what stands there is replaced."
        ),
    ],
    dtype: Annotated[DType, typer.Option(help="Number format of the weights.")] = "float32",
) -> None:
    """Work a LoRA checkpoint's adapters into its base: a full model that loads anywhere.

    Example: `eef merge runs/8b/eef/round3/checkpoint --out models/8b-eef`
    """
    if out.resolve() == checkpoint.resolve():
        raise ConfigError(
            "`--out` is the checkpoint itself", hint="give the full model another directory"
        )
    with handle_interrupt("stopped; nothing was written"), process_settings(available_cores()):
        from eef.models.checkpoint import merge_checkpoint

        merge_checkpoint(checkpoint, out, dtype=dtype)
    put(str(out))


def push(
    checkpoint: Checkpoint,
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository.", show_default=False)
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; it is private else.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address of the hub; huggingface.co when left out."),
    ] = None,
) -> None:
    """Upload a checkpoint with its card to a model hub. The token is read from the environment (`HF_TOKEN`).

    Example: `eef push runs/demo/eef/round3/checkpoint me/shopper`
    """
    with handle_interrupt("stopped; what was uploaded stays"), process_settings(available_cores()):
        from eef.models.hub import push as upload

        put(upload(checkpoint, repository, private=not public, endpoint=endpoint))


def _chosen(run: RunDirectory, method: str | None, round: int | None) -> Stage:
    """The selection that was asked for; the last of the one method that has any."""
    of_kind = [stage for stage in run.stages if stage.kind == "select" and run.is_done(stage)]
    fitting = [
        stage
        for stage in of_kind
        if method in (None, stage.method) and round in (None, stage.round)
    ]
    methods = list(dict.fromkeys(stage.method for stage in fitting))
    if not fitting:
        known = (
            ", ".join(f"`--method {stage.method} --round {stage.round}`" for stage in of_kind)
            or "none yet"
        )
        raise StoreError("this run has selected nothing of that kind", hint=f"there are: {known}")
    if len(methods) > 1 and method is None:
        raise ConfigError(
            f"several methods have selected: {', '.join(methods)}",
            hint=f"add `--method {methods[-1]}`",
        )
    return fitting[-1]
