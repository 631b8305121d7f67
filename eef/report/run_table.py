"""The results of a run as a table for the terminal, with one row per method."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from eef.analysis.results import MethodResult, Results
from eef.report.formatting import (
    NONE,
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
ROLE_COLUMNS = (
    "models at test",
    "in training",
    "completions/turn",
    "their tokens",
    "success known",
)
"""Further columns of a run in which a method asks models beside the student."""


def columns(results: Results) -> tuple[str, ...]:
    """The columns of a run."""
    return (*COLUMNS, *ROLE_COLUMNS) if _has_roles(results) else COLUMNS


def rows(results: Results) -> list[tuple[str, ...]]:
    """A row of texts per method, in the order of the run; `–` for what has not been measured.

    `rollouts` and `tokens` count exploration, `minutes` all stages of the method. `their tokens`
    are those that roles have generated.
    """
    with_roles = _has_roles(results)
    return [
        (*_row(method), *(_role_cells(method) if with_roles else ())) for method in results.methods
    ]


def _has_roles(results: Results) -> bool:
    return any(item.at_test or item.in_training or item.success_known for item in results.methods)


def _role_cells(method: MethodResult) -> tuple[str, ...]:
    """The cells of `ROLE_COLUMNS`."""

    def named(models: Mapping[str, str]) -> str:
        return ", ".join(f"{role}: {model}" for role, model in models.items()) or "none"

    per_turn = method.completions_per_turn
    return (
        named(method.at_test),
        named(method.in_training),
        NONE if per_turn is None else f"{per_turn:.1f}",
        number(method.role_tokens),
        "yes" if method.success_known else "no",
    )


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
    for column in columns(results):
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
