"""`eef report`: write the report of a run or of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from eef.analysis.study import Study, load_study
from eef.analysis.trial import write_trial
from eef.cli.console import print_out
from eef.cli.execution import write_report
from eef.errors import ConfigError
from eef.pipeline.run_directory import RunDirectory, is_run
from eef.pipeline.stages import BC, EXPERT
from eef.report.study_page import study_markdown, study_page
from eef.utils.jsonl import disk_errors, write_json, write_text

REPORT, TRIALS = "report", "trials"


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR…",
            show_default=False,
            help="One run directory; or the directories of a study: those of `eef compare`, or of "
            "trial files.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the report is written.  [default: the run directory; for a study, "
            "`report/` in the first directory]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of a run or study.

    For a run, finished or not: `results.json` and the page `report.html`. For a study:
    `results.md`, the same as a page with charts (`results.html`), the summary `study.json`, and
    `trials/`, one small file per trial. Trial files are all that a later report needs, so a study
    can be executed on several machines and outlive its runs. If two directories hold the same
    trial, the later one counts. Prints the paths of the reports.

    Example: `eef report runs/demo`

    Example: `eef report runs/study-rollouts runs/study-tokens --out results`
    """
    runs = [path for path in directories if is_run(path)]
    if runs and len(directories) > 1:
        raise ConfigError(
            f"`{runs[0]}` is a run; a study is made from directories of `eef compare`",
            hint="report each run separately, or name directories of `eef compare`",
        )
    if runs:
        write_report(RunDirectory.open(runs[0]).read(), out)
        for name in ("results.json", "report.html"):
            print_out(str((out or runs[0]) / name))
        return
    target = out or directories[0] / REPORT
    study = load_study(directories)
    for path in write_study(study, target):
        print_out(str(path))


def write_study(study: Study, directory: Path) -> list[Path]:
    """Write the report of a study and its trials; returns the paths of the report's files."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    texts = study_documents(study, study_commands(study))
    for name, text in texts.items():
        write_text(directory / name, text)
    for trial in study.trials:
        write_trial(directory / TRIALS, trial)
    write_json(directory / "study.json", study.to_record())
    return [directory / name for name in (*texts, "study.json")]


def study_documents(study: Study, commands: Sequence[str]) -> Mapping[str, str]:
    """The text of a study's document and page, by file name."""
    return {
        "results.md": study_markdown(study, commands),
        "results.html": study_page(study, commands),
    }


def study_commands(study: Study) -> list[str]:
    """The commands that execute the finished trials of a study again and report them.

    Methods that have the same seeds at the same budget share a command.
    """
    first, name = min(trial.seed for trial in study.trials), study.trials[0].study
    lines = []
    start = f" --set seed={first}" if first else ""  # a recipe's own seed is 0 by default
    for kind, aggregate in study.aggregates.items():
        size = f" --budget {kind}={study.budgets[kind]}" if study.budgets[kind] else ""
        methods_of: dict[tuple[int, ...], list[str]] = {}
        for item in aggregate.methods:
            seeds = tuple(seed for seed in aggregate.seeds if aggregate.rates_in(item, [seed]))
            if seeds and item.name not in (EXPERT, BC):
                methods_of.setdefault(seeds, []).append(item.name)
        for seeds, methods in methods_of.items():
            count = seeds[-1] - first + 1
            trials = [f" --trial {method}@{seed}" for method in methods for seed in seeds]
            lines.append(
                f"eef compare recipes/{name}.toml --methods {','.join(methods)} --seeds {count}"
                f"{start}{size} --out runs/{name}-{kind}"
                f"{''.join(trials) if len(seeds) < count else ''}"
            )
    kinds = " ".join(f"runs/{name}-{kind}" for kind in study.aggregates)
    return [*lines, f"eef report {kinds}"]
