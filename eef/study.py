"""Study: comparisons over seeds at one or more budgets → one summary, one Markdown document, one HTML page.

Behind `eef.seeds`, which measures; what is written here are its numbers and nothing else. Read by `eef results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from eef.errors import StoreError
from eef.jsonfile import read_json
from eef.pipeline import BC, EXPERT, Run
from eef.report.figure import Curve, Level, Point, line_chart
from eef.report.markup import Html, tag
from eef.report.page import POLICY, page_style
from eef.report.pieces import OTHERS, section, table
from eef.report.wording import NONE, display_name, minutes, number, percent, points, reward
from eef.seeds import MethodOverSeeds, OverSeeds, gather_seeds

Study = Mapping[str, OverSeeds]
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, head, rows

COSTS = ("rollouts", "env_steps", "replayed_steps", "prompt_tokens", "cached_tokens", "generated_tokens", "updates")


def open_runs(directory: Path) -> list[Run]:
    """The runs of a comparison, by seed. StoreError where a directory holds none."""
    runs = [Run.open(path.parent) for path in directory.glob("seed*/recipe.json")]
    if not runs:
        raise StoreError(f"`{directory}` holds no comparison", hint="`eef compare` makes one, with `seed0` … in it")
    return sorted(runs, key=lambda run: run.recipe.seed)


def gather_study(directories: Sequence[Path]) -> tuple[dict[str, OverSeeds], dict[str, Any]]:
    """(numbers over seeds by budget, fingerprint of the environment).

    StoreError: two comparisons of one kind of budget, or of different environments.
    """
    study: dict[str, OverSeeds] = {}
    fingerprint: dict[str, Any] = {}
    for directory in directories:
        runs = open_runs(directory)
        kind = runs[0].recipe.budget.kind
        if kind in study:
            raise StoreError(f"`{directory}` is a second comparison at equal {kind}", hint="name one of each budget")
        for run in runs:
            found = read_json(run.directory / "fingerprint.json")
            if fingerprint and found != fingerprint:
                raise StoreError(f"`{run.directory}` was played in another environment than the first run")
            fingerprint = found
        study[kind] = gather_seeds(runs)
    return study, fingerprint


def study_record(study: Study, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The summary: `comparisons.<budget>.<a>_vs_<b>` with difference, p, interval and seeds, for every pair."""
    return {
        "version": 1,
        "fingerprint": dict(fingerprint),
        "comparisons": {
            kind: {f"{pair.first}_vs_{pair.second}": pair.to_record() for pair in over.pairs}
            for kind, over in study.items()
        },
        "budgets": {kind: over.to_record() for kind, over in study.items()},
    }


def study_markdown(study: Study, fingerprint: Mapping[str, Any], command: str) -> str:
    """The document: every table of every budget, and how to get it again."""
    parts = ["# Results", "", f"Written by `{command}` from the run directories; nothing in it is written by hand."]
    for kind, over in study.items():
        parts += ["", f"## {_title(kind)}"]
        for title, head, rows in tables_of(over):
            lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
            parts += ["", f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)]
    prints = [f"- {key}: `{value}`" for key, value in fingerprint.items()]
    return "\n".join([*parts, "", "## Environment", "", *prints, ""])


def study_page(study: Study, fingerprint: Mapping[str, Any], command: str) -> str:
    """The same as one HTML page that needs nothing else, with curves over rounds."""
    sections = []
    for kind, over in study.items():
        drawn = [
            tag("div", tag("h3", title), table(head, rows, name=title)) for title, head, rows in tables_of(over)
        ]
        sections.append(section(_title(kind), draw_rounds(over), *drawn))
    prints = tag("dl", *(Html(tag("dt", key) + tag("dd", str(value))) for key, value in fingerprint.items()))
    body = tag("main", tag("h1", "Results"), *sections, section("Environment", prints, tag("pre", command)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n{tag("title", "Results")}\n'
        f"<style>\n{page_style()}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def draw_rounds(over: OverSeeds) -> Html:
    """Mean win rate over rounds; the band reaches from the worst to the best seed."""
    curves = []
    for place, method in enumerate(item for item in over.methods if item.name not in (EXPERT, BC)):
        known = {at: [rate for rate in rates if rate is not None] for at, rates in method.rounds.items()}
        points_ = tuple(Point(at, fmean(rates), min(rates), max(rates)) for at, rates in known.items() if rates)
        if points_:
            curves.append(Curve(display_name(method.name), OTHERS[place % len(OTHERS)], points_))
    levels = [
        Level(display_name(item.name), "expert-d" if item.name == EXPERT else "bc-b", item.mean)
        for item in over.methods if item.name in (EXPERT, BC) and item.mean is not None
    ]
    return line_chart(curves, levels, title="Win rate over rounds", x_title="round", whole_x=True)


def tables_of(over: OverSeeds) -> tuple[Table, ...]:
    """(title, head, rows) of every table: methods, pairs, difficulty, skills, costs."""
    return (_methods(over), _pairs(over), _difficulty(over), _skills(over), _costs(over))


def _title(kind: str) -> str:
    return {"rollouts": "At equal rollouts", "tokens": "At equal tokens", "none": "As planned"}[kind]


def _methods(over: OverSeeds) -> Table:
    by_seed = [f"seed {seed}" for seed in over.seeds]
    head = ("method", "win rate %", "± sd", *by_seed, "mean reward", "pass@k (training)")
    rows = [
        (display_name(item.name), percent(item.mean), percent(item.deviation), *map(percent, item.win_rates),
         reward(item.mean_reward), _pass(item))
        for item in over.methods
    ]
    return "Methods after the last round, greedy on the test tasks", head, rows


def _pass(item: MethodOverSeeds) -> str:
    return f"{percent(item.pass_at_k[1])} (k = {item.pass_at_k[0]})" if item.pass_at_k else NONE


def _pairs(over: OverSeeds) -> Table:
    head = ("pair", "difference, points [95 % over tasks]", "[over tasks and seeds]", "seeds", "p", "p (Holm)",
            "by seed: only first : only second")
    rows = []
    for pair in over.pairs:
        low, high = pair.difference.interval
        wide_low, wide_high = pair.both.interval
        rows.append((
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            f"{points(pair.difference.mean)} [{points(low)}, {points(high)}]",
            f"[{points(wide_low)}, {points(wide_high)}]", str(len(pair.seeds)), f"{pair.p_value:.4f}",
            f"{pair.p_adjusted:.4f}", ", ".join(f"{test.only_first} : {test.only_second}" for test in pair.by_seed),
        ))
    return "Pairs on the same tasks, exact sign-flip test over tasks with all seeds of a task together", head, rows


def _difficulty(over: OverSeeds) -> Table:
    levels = [level for level in ("easy", "medium", "hard") if level in over.tasks]
    head = ("method", *(f"{level} ({over.tasks[level]})" for level in levels), "newly solved, by seed")
    rows: list[Sequence[str]] = [
        (display_name(item.name), *(str(item.solved.get(level, 0)) for level in levels),
         ", ".join(map(number, item.newly_solved)))
        for item in over.methods
    ]
    rows.append(("never solved by anyone", *(str(over.never_solved.get(level, 0)) for level in levels), ""))
    return "Test tasks solved in any seed (hard: not by expert or behaviour cloning, easy: always by both)", head, rows


def _skills(over: OverSeeds) -> Table:
    rows = [
        (display_name(item.name), str(round), part, *(_mean_use(uses, part, name) for name in _skill_names(over)))
        for item in over.methods for round, uses in item.skills.items() if uses and uses[0] for part in ("won", "lost")
    ]
    return "Actions of a kind in a test episode", ("method", "round", "episodes", *_skill_names(over)), rows


def _skill_names(over: OverSeeds) -> list[str]:
    return list(dict.fromkeys(
        name for item in over.methods for uses in item.skills.values() for use in uses if use
        for name in use["won"].means
    ))


def _mean_use(uses: Sequence[Any], part: str, name: str) -> str:
    known = [use[part].means[name] for use in uses if use[part].means[name] is not None]
    return f"{fmean(known):.2f}" if known else NONE


def _costs(over: OverSeeds) -> Table:
    head = ("method", *(f"{name.replace('_', ' ')}, exploring" for name in COSTS[:-1]), "updates", "minutes in all")
    rows = []
    for item in over.methods:
        spent = asdict(item.explored) if item.explored else {}
        rows.append((
            display_name(item.name), *(number(spent.get(name)) for name in COSTS[:-1]),
            number(item.cost.updates if item.cost else None), minutes(item.cost.seconds if item.cost else None),
        ))
    return "Cost, mean over seeds", head, rows
