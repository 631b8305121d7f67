"""The results of a run as a table for the terminal, with one row per method."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from eef.analysis.results import MethodResult, Results
from eef.report.formatting import (
    NONE,
    describe_env,
    display_name,
    interval_text,
    minutes,
    named_models,
    number,
    reward,
    round_name,
    tokens_by_role,
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
    "role tokens",
    "success known",
    "won within attempts",
)
"""Further columns of a run in which a method asks models beside the student."""


def columns(results: Results) -> tuple[str, ...]:
    """The columns of a run."""
    return (*COLUMNS, *ROLE_COLUMNS) if has_roles(results) else COLUMNS


def rows(results: Results) -> list[tuple[str, ...]]:
    """A row of texts per method, in the order of the run; `–` for what has not been measured.

    `rollouts` and `tokens` count exploration, `minutes` all stages of the method. `role
    tokens` are those that each role has generated in all stages. The win rate is that of first
    attempts.
    """
    with_roles = has_roles(results)
    return [
        (*_row(method), *(role_cells(method) if with_roles else ())) for method in results.methods
    ]


def has_roles(results: Results) -> bool:
    """Whether a method of a run asks models beside the student, or uses success at test time."""
    return any(item.asked.any for item in results.methods)


def role_cells(method: MethodResult) -> tuple[str, ...]:
    """The cells of `ROLE_COLUMNS`."""
    per_turn, asked = method.completions_per_turn, method.asked
    return (
        named_models(asked.at_test),
        named_models(asked.in_training),
        NONE if per_turn is None else f"{per_turn:.1f}",
        NONE if method.last is None else tokens_by_role(method.cost.roles),
        "yes" if asked.success_known else "no",
        ", ".join(map(number, method.wins_by_attempt)) or NONE,
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
