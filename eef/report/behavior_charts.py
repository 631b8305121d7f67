"""Charts of behaviors over rounds: the actions of each kind per episode, by method."""

from __future__ import annotations

from eef.analysis.results import Results, RoundResult
from eef.pipeline.stages import BC
from eef.report.charts import Curve, Point, count_chart
from eef.report.components import fold, method_cell, style_of, table
from eef.report.formatting import NONE, display_name, round_name
from eef.report.html import Content, Html, tag


def draw_behavior_rounds(results: Results) -> Html:
    """A chart for each behavior that occurs, and all numbers as a table.

    Empty if nothing is evaluated yet, or the environment declares no behaviors.
    """
    rounds = [
        (method, item) for method in results.methods for item in method.evaluated if item.behaviors
    ]
    names = list(rounds[0][1].behaviors["won"].means) if rounds else []
    cards = [
        tag("section", tag("h3", name), _chart(results, name), class_="card")
        for name in names
        if any(_mean(item, name) for _, item in rounds)
    ]
    if not names:
        return Html("")
    unused = [name for name in names if not any(_mean(item, name) for _, item in rounds)]
    rest = tag("p", f"Not seen in any round: {', '.join(unused)}.", class_="note") if unused else ""
    return tag(
        "div", tag("div", *cards, class_="cards"), rest, fold("As a table", _table(results, names))
    )


def _chart(results: Results, name: str) -> Html:
    first = results[BC].last
    curves = []
    for method in results.round_methods:
        items = [*([first] if first else []), *method.evaluated]
        points = [
            Point(item.round, mean, mean, mean)
            for item in items
            if (mean := _mean(item, name)) is not None
        ]
        if points:
            curves.append(
                Curve(display_name(method.name), style_of(method.name, results), (*points,))
            )
    return count_chart(curves, title=f"{name}: actions per episode over rounds")


def _mean(item: RoundResult, name: str) -> float | None:
    """Mean number of actions per episode, won or lost; None without episodes."""
    uses = item.behaviors.values()
    episodes = sum(use.episodes for use in uses)
    total = sum((use.means[name] or 0.0) * use.episodes for use in uses)
    return total / episodes if episodes else None


def _table(results: Results, names: list[str]) -> Html:
    rows: list[list[Content]] = [
        [method_cell(method.name, results), round_name(item), *_cells(item, names)]
        for method in results.methods
        for item in method.evaluated
        if item.behaviors
    ]
    return table(("Method", "Round", *names), rows, name="Behaviors by round")


def _cells(item: RoundResult, names: list[str]) -> list[str]:
    won, lost = item.behaviors["won"].means, item.behaviors["lost"].means
    return [" / ".join(_number(means[name]) for means in (won, lost)) for name in names]


def _number(mean: float | None) -> str:
    return NONE if mean is None else f"{mean:.2f}"
