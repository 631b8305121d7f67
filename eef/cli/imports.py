"""Imports: the command that reads others' trajectories, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from eef.cli.console import handle_interrupt, notes, put, tell
from eef.cli.runs import Overrides, as_table
from eef.config import nearest
from eef.envs.registry import make_env
from eef.errors import ConfigError, DataError, EnvError
from eef.importers.formats import FORMATS
from eef.importers.importer import Importer, ImportReport
from eef.importers.rows import Rejection
from eef.importers.verify import TaskIndex
from eef.trajectory import Trajectory
from eef.utils.jsonl import write_jsonl

_SHOWN = 20  # rejected rows that are named on the screen; all are in the file beside the output


def import_files(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Files to read.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the trajectories go; `<name>-imported.jsonl` when left out."
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="`auto` (each row by itself), or the one format to take.")
    ] = "auto",
    author: Annotated[
        str, typer.Option(help="Who played them; what rows say, or the file's name, when left out.")
    ] = "",
    reward: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Reward of rows that tell none (1: they are wins).",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        str,
        typer.Option(metavar="NAME", help="Environment to replay them in, and so to verify them."),
    ] = "",
    overrides: Overrides = None,
) -> None:
    """Read expert trajectories in others' formats, and say what was found; a recipe then takes the file as an expert.

    Formats: `eef`, `react`, `agentgym`, `sharegpt` (ETO), `messages` (OpenAI), `verifiers`, `inspect`. With `--env`
    every trajectory is played again and compared with what is told. One that comes back can be explored from; any other
    is text only: good for behaviour cloning, refused for exploration. Masks that come with turns are kept.

    Status: 0 all rows taken, 1 some rejected (each is named, with its reason), 2 none taken.

    Example: `eef import gpt-4.jsonl --env webshop --set data=DIR`, then `expert.names = ["file/gpt-4-imported.jsonl"]`
    """
    _check_format(format)
    if overrides and not env:
        raise ConfigError(
            "`--set` has no effect without `--env`", hint="name the environment, or leave it out"
        )
    target = out or Path(f"{files[0].stem}-imported.jsonl")
    if target.resolve() in [path.resolve() for path in files]:
        raise ConfigError(
            f"`{target}` is one of the files to read",
            hint="give the output another name by `--out`",
        )
    reading = Importer(_known(env, overrides), wanted=format, author=author, reward=reward)
    rejected: list[Rejection] = []
    with handle_interrupt("stopped; nothing was written"):
        _write(reading, files, target, rejected)
    for line in report_lines(reading.report, rejected):
        tell(line)
    if reading.report.imported == 0:
        raise DataError("no trajectory in it", hint=f"formats that are read: {', '.join(FORMATS)}")
    put(str(target))
    if rejected:
        raise typer.Exit(1)


def report_lines(report: ImportReport, rejected: list[Rejection]) -> Iterator[str]:
    """What an import came to, a line each."""
    for item in rejected[:_SHOWN]:
        yield f"rejected  {item.place}: {item.reason}"
    if len(rejected) > _SHOWN:
        yield f"rejected  … and {len(rejected) - _SHOWN} more"
    formats = ", ".join(f"{count} {name}" for name, count in report.formats.most_common()) or "none"
    yield f"formats   {formats}"
    yield f"imported  {report.imported} of {report.imported + report.rejected} rows" + (
        f" ({report.rejected} rejected)" if report.rejected else ""
    )
    yield (
        f"outcomes  won {100 * report.success_rate:.1f} % ({report.won}), mean reward {report.mean_reward:.3f}, "
        f"failed {report.imported - report.won}"
    )
    yield f"replayed  {report.replayed} verified, to be explored from"
    if report.unverified:
        yield f"text only {report.unverified}: good for behaviour cloning, refused for exploration"
        for difference in report.differences:
            yield f"          {difference}"
    if report.masked:
        yield f"masked    {report.masked} turns came with loss weight 0, and keep it"
    if report.prompts:
        yield f"rules     {report.prompts} came with rules in words; a run trains with its environment's instead"


def _write(reading: Importer, files: list[Path], target: Path, rejected: list[Rejection]) -> None:
    """Write the trajectories as they come; nothing is written where there is none."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bars(*columns, console=notes(), transient=True) as bars:
        bar = bars.add_task("reading")

        def taken() -> Iterator[Trajectory]:
            for item in reading.trajectories(files):
                count = reading.report.imported + reading.report.rejected
                bars.update(bar, description=f"{count} rows, {reading.report.rejected} rejected")
                if isinstance(item, Rejection):
                    rejected.append(item)
                else:
                    yield item

        with suppress(_Nothing):
            write_jsonl(target, (item.to_record() for item in _some(taken())))
    beside = target.with_name(f"{target.name}.rejected.jsonl")
    beside.unlink(missing_ok=True)
    if rejected:
        write_jsonl(beside, ({"place": item.place, "reason": item.reason} for item in rejected))
        tell(f"all rejected rows: {beside}")


class _Nothing(Exception):
    """There is nothing to write."""


def _some(items: Iterator[Trajectory]) -> Iterator[Trajectory]:
    empty = True
    for item in items:
        empty = False
        yield item
    if empty:
        raise _Nothing


def _check_format(format: str) -> None:
    if format not in ("auto", *FORMATS):
        like = nearest(format, list(FORMATS))
        hint = f"did you mean `{like}`?" if like else f"there are: auto, {', '.join(FORMATS)}"
        raise ConfigError(f"no format {format!r}", hint=hint)


def _known(name: str, overrides: list[str] | None) -> TaskIndex | None:
    if not name:
        return None
    env = make_env(name, as_table(overrides))
    splits = {}
    for split in ("train", "test"):
        with suppress(EnvError):
            splits[split] = env.tasks(split)
    return TaskIndex(env, splits)
