"""Tools: commands that need no run – hold an environment to the protocol, make gold paths or a base student, look at
the machine, print the settings."""

from __future__ import annotations

import inspect
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from eef.cli.console import data, handle_interrupt, notes, put, tell
from eef.cli.indexes import bars
from eef.cli.runs import Overrides, as_table
from eef.config import SettingRow, parse_settings, settings_table
from eef.envs.registry import ENVIRONMENTS, env_spec, setting_groups
from eef.errors import ConfigError, EnvError
from eef.methods.registry import METHODS, method_class
from eef.pipeline.recipe import Recipe
from eef.utils.compute import available_cores, process_settings
from eef.utils.progress import Progress

_HEADING = """\
# Settings

Every setting and its default, as `eef settings --markdown` prints them. A recipe is a TOML, YAML or JSON file of these;
`--set train.updates=200` lays one over it.
"""


def check_env(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of an environment.", show_default=False)
    ],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="Split whose first tasks are played.")] = "train",
) -> None:
    """Hold an environment to the protocol on its first tasks; prints what was checked.

    Example: `eef check-env webshop --set products_per_page=5`
    """
    from eef.env import check_env as check
    from eef.envs.registry import make_env

    checked = check(make_env(name, as_table(overrides)), split=split)
    for what in checked:
        put(what)
    tell(f"{len(checked)} checks passed")


def gold(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="`scienceworld` or `textworld-express`.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="Split whose tasks are solved.")] = "train",
    tasks: Annotated[int | None, typer.Option(metavar="N", help="The first N tasks alone.")] = None,
) -> None:
    """Make the gold paths of a split ahead of a run, play each, and print those that do not win, with their rewards.

    A run with a scripted expert makes what it lacks. Paths are kept in the cache directory (`$EEF_CACHE`, else `eef` in
    the user's cache directory); what was interrupted goes on where it stopped.

    Example: `eef gold scienceworld --set tasks=boil --split dev`
    """
    from eef.envs.registry import make_env
    from eef.envs.simulators.env import PooledEnv
    from eef.envs.simulators.gold_paths import GoldPaths

    env = make_env(name, as_table(overrides))
    if not isinstance(env, PooledEnv):
        raise ConfigError(
            f"{name!r} has no gold paths", hint="scienceworld and textworld-express have"
        )
    chosen = list(env.tasks(split).head(tasks))
    with closing(env), handle_interrupt("stopped; the same command continues"), bars() as progress:
        failing = GoldPaths(env).failing(
            chosen, heard=lambda done: progress(Progress("gold paths", done, len(chosen)))
        )
    broken = {task: error for task, error in failing.items() if isinstance(error, EnvError)}
    for task, outcome in failing.items():
        put(f"{task}\t" + (outcome.message if isinstance(outcome, EnvError) else f"{outcome:.3f}"))
    tell(
        f"{len(chosen) - len(broken)} gold paths, {len(failing) - len(broken)} of them do not win"
        + (
            f"; {len(broken)} could not be made ({next(iter(broken.values())).hint})"
            if broken
            else ""
        )
    )


def make_base(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where the model goes; what stands there is replaced."),
    ],
    overrides: Overrides = None,
    env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment that it is to play.")
    ] = "webshop",
) -> None:
    """Make a small base student from scratch, on drills and on episodes: in random shops, or along gold paths of
    ScienceWorld's development variations.

    Example: `eef make-base --env scienceworld --out student --set updates=200`
    """
    with handle_interrupt("stopped; nothing was written"), process_settings(available_cores()):
        from eef.students.builder import build_student, student_settings

        settings = parse_settings(student_settings(env), as_table(overrides), source="make-base")
        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=notes(),
        ) as bars:
            bar_of: dict[str, TaskID] = {}

            def move(progress: Progress) -> None:
                subject = str(progress.subject)
                if subject not in bar_of:
                    bar_of[subject] = bars.add_task(subject, note="")
                bars.update(
                    bar_of[subject],
                    completed=progress.done,
                    total=progress.total,
                    note=progress.note,
                )

            build_student(env, out, settings, on_progress=move)
    put(str(out))


def doctor() -> None:
    """Look at what `eef` needs on this machine, and say which command mends what is missing.

    Example: `eef doctor`
    """
    from eef.cli.diagnosis import diagnose

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    with process_settings(available_cores()):
        findings = diagnose()
    for finding in findings:
        missing = ("missing", "red") if finding.needed else ("optional", "yellow")
        mark, colour = ("ok", "green") if finding.ok else missing
        table.add_row(finding.name, Text(mark, style=colour), Text(finding.found))
    data().print(table)
    to_mend = [finding for finding in findings if not finding.ok]
    for finding in to_mend:
        tell(f"{finding.name}: {finding.remedy}")
    if any(finding.needed for finding in to_mend):
        raise typer.Exit(2)


def settings(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As Markdown tables, for documents.")
    ] = False,
) -> None:
    """Print every setting of a recipe with its default and what it means: methods' options and environments' too.

    Example: `eef settings`
    """
    show = _put_markdown if markdown else _print_table
    if markdown:
        put(_HEADING)
    show("recipe", settings_table(Recipe))
    for name in METHODS:
        show(f"method {name}", settings_table(method_class(name).Options, f"options.{name}."))
    for name in ENVIRONMENTS:
        about = _describe_env(name)
        put(
            f"## environment {name}\n\n```\n{about}\n```\n"
            if markdown
            else f"\nenvironment {name}\n{about}"
        )
        for key, group in setting_groups(name).items():
            show(f"environment {name}: {key}", settings_table(group, f"env.{key}."))


def formats(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the document `docs/data-format.md`.")
    ] = False,
) -> None:
    """Print every file that a run directory holds and what stands in it.

    Example: `eef formats`
    """
    from docs.generate import FILES
    from docs.generate import markdown as document

    if markdown:
        put(document())
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("file", "what stands in it", "keys"):
        table.add_column(column)
    for each in FILES:
        table.add_row(
            Text(each.path, style="bold"), Text(each.about), Text(", ".join(each.keys or ()))
        )
    data().print(table)


def _print_table(title: str, rows: list[SettingRow]) -> None:
    table = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), title=f"\n{title}", title_justify="left"
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning", ratio=1)
    for row in rows:
        table.add_row(
            Text(row.key, style="bold"), Text(row.default), Text(" ".join(row.description.split()))
        )
    data().print(table)


def _put_markdown(title: str, rows: list[SettingRow]) -> None:
    """A section with a table of settings."""
    lines = [f"## {title}", "", "| setting | type | default | meaning |", "|:--|:--|:--|:--|"]
    for row in rows:
        description = " ".join(row.description.split()).replace("|", "\\|")
        lines.append(f"| `{row.key}` | {row.type} | `{row.default}` | {description} |")
    put("\n".join(lines) + "\n")


def _describe_env(name: str) -> str:
    """An environment's own settings with their defaults, then what it says of itself."""
    kind: Any = env_spec(name).make
    parameters = inspect.signature(kind).parameters.values()
    defaults = [f"env.{parameter.name} = {parameter.default!r}" for parameter in parameters]
    return "\n".join([*defaults, "", inspect.getdoc(kind) or ""])
