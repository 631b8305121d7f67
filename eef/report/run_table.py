"""The results of a run as a table for the terminal, with one row per method."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from eef.analysis.results import MethodResult, Results
from eef.report.formatting import (
    describe_env,
    display_name,
    interval_text,
    minutes,
    number,
    reward,
    round_name,
)

COLUMNS = (
    "method",
    "round",
    "win rate % [95 %]",
    "mean reward",
    "newly solved",
    "rollouts",
    "tokens",
    "minutes",
)


def rows(results: Results) -> list[tuple[str, ...]]:
    """A row of texts per method, in the order of the run; `–` for what has not been measured.

    `rollouts` and `tokens` count exploration, `minutes` all stages of the method.
    """
    return [_row(method) for method in results.methods]


def results_table(results: Results) -> Table:
    """The table for a terminal; the best win rate in bold."""
    title = Text(f"{results.name} (seed {results.seed})")  # `Text`: a name is not markup
    where = Text(describe_env(results.fingerprint))
    table = Table(
        title=title,
        title_justify="left",
        caption=where,
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    best = max((method.score.win_rate for method in results.methods if method.score), default=None)
    for method, row in zip(results.methods, rows(results), strict=True):
        table.add_row(
            *row, style="bold" if method.score and method.score.win_rate == best else None
        )
    return table


def _row(method: MethodResult) -> tuple[str, ...]:
    last, score = method.last, method.score
    return (
        display_name(method.name),
        round_name(last),
        interval_text(score),
        reward(score.mean_reward if score else None),
        number(last.newly_solved if last else None),
        number(method.rollouts),
        number(method.tokens),
        minutes(method.seconds),
    )
