"""`eef import`: import expert trajectories from other formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from eef.cli.console import handle_interrupt, plain_table, print_err, print_out, stderr_console
from eef.cli.options import EnvOverrides, env_options
from eef.envs.registry import make_env
from eef.errors import ConfigError, DataError, EnvError
from eef.importers.calls import ActionMap
from eef.importers.formats import PLUGINS, find_format
from eef.importers.importer import Importer, ImportReport, RewardSource, RowAccount
from eef.importers.rows import Rejection
from eef.importers.verify import TaskIndex
from eef.task import TaskSet
from eef.trajectory import Trajectory
from eef.utils.jsonl import write_jsonl

_SHOWN = 20  # rejected rows that are printed; the file beside the output lists all
_SHOWN_ROWS = 8  # of the table of all rows


def import_files(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Files to read.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the trajectories are written.  [default: FIRST_FILE-imported.jsonl]",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="The format of all rows; `auto` detects that of each row.")
    ] = "auto",
    author: Annotated[
        str,
        typer.Option(
            help="Who played the trajectories.  [default: that of each row, or the file's name]",
            show_default=False,
        ),
    ] = "",
    reward: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Reward of rows that have none; 1 makes them wins.",
            show_default=False,
        ),
    ] = None,
    reward_from: Annotated[
        str,
        typer.Option(
            metavar="KEY|FILE",
            help="Source of rewards: a key of each row, e.g. `scores.resolved`, or a JSON Lines "
            "file of `id` and `reward`.",
            show_default=False,
        ),
    ] = "",
    action_map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="PATTERN=REPLACEMENT",
            help=r"Rewrite actions that match a regular expression, e.g. "
            r"`find\((.*)\)=search[\1]` (in the pattern, `\=` is an equals sign); may be repeated.",
        ),
    ] = None,
    env: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Environment to verify the trajectories in.", show_default=False
        ),
    ] = "",
    overrides: EnvOverrides = None,
) -> None:
    """Import expert trajectories from other formats.

    Reads `eef`, `react`, `agentgym`, `sharegpt` (ETO), `messages` (OpenAI), `verifiers` and
    `inspect`. With `--env`, every trajectory is replayed and its observations are compared. Methods
    can branch from all states of a verified trajectory, and from those of a partly verified one up
    to the first difference. An unverified one can only be cloned. Loss masks of turns are kept, and
    so are tool calls if the environment has tools. A recipe uses the file as an expert:
    `expert.names = ["file/gpt-4-imported.jsonl"]`. Prints its path. Unless all rows were verified,
    a file next to it states the outcome of every row.

    Exit status: 0 if all rows were imported, 1 if some were rejected (each is listed with its
    reason), 2 if none were imported.

    Example: `eef import gpt-4.jsonl --env webshop --set data=webshop/data`
    """
    if format != "auto":
        find_format(format)
    if overrides and not env:
        raise ConfigError(
            "`--set` has no effect without `--env`", hint="name the environment: `--env webshop`"
        )
    for path in files:
        if not path.exists():
            raise DataError(f"no such file `{path}`")
        if path.is_dir():
            raise DataError(
                f"`{path}` is a directory", hint="name its files, such as `DIR/*.jsonl`"
            )
    if out is not None and not out.name:
        raise ConfigError("`--out` names no file", hint="name one: `--out FILE`")
    target = out or Path(f"{files[0].stem}-imported.jsonl")
    if target.resolve() in [path.resolve() for path in files]:
        raise ConfigError(
            f"`{target}` is one of the files to read", hint="choose another name: `--out FILE`"
        )
    actions = ActionMap(action_map or ())
    rewards = RewardSource(reward_from) if reward_from else None
    importer = Importer(
        _task_index(env, overrides),
        wanted=format,
        action_map=actions,
        author=author,
        reward=reward,
        reward_of=rewards,
    )
    rejected: list[Rejection] = []
    with handle_interrupt("stopped; nothing was written"):
        _write(importer, files, target, rejected)
    if importer.report.partly or importer.report.unverified:
        _print_accounts(importer.accounts)
    for line in report_lines(importer.report, rejected):
        print_err(line)
    for rule in actions.unused if actions.asked else ():
        print_err(
            f"warning: `--map {rule}` rewrites no action: a pattern must match a whole action, and "
            "only the first that does counts"
        )
    if rewards is not None and rewards.asked and not rewards.found:
        print_err(
            f"warning: `--reward-from {reward_from}` gives no row a reward: it is neither a file "
            "with their ids nor one of their keys"
        )
    hint = _hint(rejected, env)
    if importer.report.imported == 0:
        raise DataError("no row was imported", hint=hint)
    print_out(str(target))
    if rejected:
        if hint:
            print_err(f"hint: {hint}")
        raise typer.Exit(1)


def _hint(rejected: list[Rejection], env: str) -> str:
    """How to import rows that were rejected, or an empty text if their reasons are all there is."""
    reasons = [item.reason for item in rejected]
    if any("Format error: unknown tool" in reason for reason in reasons):
        return r"rename the tools of the rows: `--map 'OLD\[(.*)\]=NEW[\1]'`"
    if any(reason.startswith("no reward") for reason in reasons):
        replay = (
            "name each row's task in `task`, and its seed in `episode_seed`, as the environment has"
            " them"
            if env
            else "replay the rows in their environment: `--env NAME`"
        )
        return f"{replay}; or give rewards: `--reward-from KEY`, or `--reward 1` for wins"
    if any(reason.startswith("unknown format") for reason in reasons):
        return f"known formats: {', '.join(PLUGINS.names())}"
    return ""


def report_lines(report: ImportReport, rejected: list[Rejection]) -> Iterator[str]:
    """The outcome of an import, line by line."""
    for item in rejected[:_SHOWN]:
        yield f"rejected    {item.place}: {item.reason}"
    if len(rejected) > _SHOWN:
        yield f"rejected    … and {len(rejected) - _SHOWN} more"
    formats = ", ".join(f"{count} {name}" for name, count in report.formats.most_common()) or "none"
    yield f"formats     {formats}"
    yield f"imported    {report.imported} of {report.imported + report.rejected} rows" + (
        f" ({report.rejected} rejected)" if report.rejected else ""
    )
    yield (
        f"outcomes    won {100 * report.success_rate:.1f} % ({report.won}), mean reward "
        f"{report.mean_reward:.3f}, failed {report.imported - report.won}"
    )
    yield f"verified    {report.replayed}: methods can branch from all their states"
    if report.partly:
        yield f"partly      {report.partly}: methods can branch up to the first difference"
        yield "            (a row without a reward of its own counts as failed)"
    if report.tolerated:
        yield (
            f"tolerated   {report.tolerated} observations differ only in what the environment "
            "ignores"
        )
    if report.unverified:
        yield f"unverified  {report.unverified}: for behavior cloning only"
    for difference in report.differences:
        yield f"            {difference}"
    if report.masked:
        yield f"masked      {report.masked} turns have loss weight 0 and keep it"
    if report.closing:
        yield f"closing     {report.closing} turns after the end of their episodes were dropped"
    if report.renamed:
        yield (
            f"renamed     {report.renamed} had an id that was already used: the place of the row "
            "was appended"
        )
    if report.prompts:
        yield (
            f"prompts     {report.prompts} have their own instructions; "
            "a run trains with those of its environment"
        )


def _write(importer: Importer, files: list[Path], target: Path, rejected: list[Rejection]) -> None:
    """Write the trajectories as they are read; no file is written if there is none."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bars(*columns, console=stderr_console(), transient=True) as bars:
        bar = bars.add_task("reading")

        def trajectories() -> Iterator[Trajectory]:
            report = importer.report
            for item in importer.trajectories(files):
                count = report.imported + report.rejected
                bars.update(bar, description=f"{count} rows, {report.rejected} rejected")
                if isinstance(item, Rejection):
                    rejected.append(item)
                else:
                    yield item

        with suppress(_NothingToWrite):
            write_jsonl(target, (item.to_record() for item in _at_least_one(trajectories())))
    accounts = target.with_name(f"{target.name}.accounts.jsonl")
    accounts.unlink(missing_ok=True)
    if any(each.outcome != "verified" or each.tolerated_steps for each in importer.accounts):
        write_jsonl(accounts, (each.to_record() for each in importer.accounts))
        print_err(f"the outcome of every row: {accounts}")


def _print_accounts(accounts: list[RowAccount]) -> None:
    """Print the outcomes of the first rows as a table."""
    table = plain_table("row", "outcome", "steps", "reason")
    for each in accounts[:_SHOWN_ROWS]:
        steps = f"{each.verified_steps} of {each.steps}" if each.steps else ""
        table.add_row(Text(each.place), each.outcome, steps, Text(each.reason))
    stderr_console().print(table)
    if len(accounts) > _SHOWN_ROWS:
        print_err(f"… and {len(accounts) - _SHOWN_ROWS} more rows")


class _NothingToWrite(Exception):
    """No trajectory was imported."""


def _at_least_one(items: Iterator[Trajectory]) -> Iterator[Trajectory]:
    empty = True
    for item in items:
        empty = False
        yield item
    if empty:
        raise _NothingToWrite


def _task_index(name: str, overrides: list[str] | None) -> TaskIndex | None:
    """The tasks of an environment's splits, or None without an environment."""
    if not name:
        return None
    env = make_env(name, env_options(overrides))
    splits: dict[str, TaskSet] = {}
    missing: EnvError | None = None
    for split in ("train", "test"):
        try:
            splits[split] = env.tasks(split)
        except EnvError as error:
            missing = error
    if missing and not splits:
        raise missing
    return TaskIndex(env, splits)
