"""Charts of a study: learning curves, option sweeps, label noise and behaviors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from eef.analysis import curves
from eef.analysis.aggregate import Aggregate, MethodAggregate
from eef.methods.labels import LabelRule
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import Curve, Level, Point, bar_chart, line_chart
from eef.report.components import OTHER_STYLES, STYLES, figure
from eef.report.formatting import count_of, display_name
from eef.report.html import Html, tag
from eef.report.study_tables import NOISE_ROLLOUTS, generated_exploring

BAND = "The band spans the worst to the best seed."

Position = Callable[[MethodAggregate, int], float]
"""The horizontal position of a method after a round."""

AXES: tuple[tuple[str, Position], ...] = (
    ("round", lambda item, round: round),
    ("rollouts explored", lambda item, round: item.explored[round].rollouts),
    ("tokens generated exploring", generated_exploring),
)


def draw_charts(aggregate: Aggregate) -> Html:
    """All charts for which there are numbers."""
    learning = [_learning_chart(aggregate, title, position) for title, position in AXES]
    drawn = [
        *learning,
        *_sweep_charts(aggregate),
        *_noise_charts(aggregate),
        *_behavior_charts(aggregate),
    ]
    return tag("div", *drawn, class_="charts")


def method_styles(aggregate: Aggregate) -> dict[str, str]:
    """The class of each method's color and marker; a variant has that of its method."""
    others = [
        item.name for item in aggregate.methods if item.name not in STYLES and not item.is_variant
    ]
    styles = {
        name: OTHER_STYLES[index % len(OTHER_STYLES)] for index, name in enumerate(others)
    } | STYLES
    return styles | {
        item.name: styles.get(item.algorithm, OTHER_STYLES[0]) for item in aggregate.variants
    }


def _learning_chart(aggregate: Aggregate, x_title: str, position: Position) -> Html:
    """Mean win rate after each round, of all methods that are not variants."""
    styles, drawn = method_styles(aggregate), []
    by_round = x_title == "round"
    for item in aggregate.methods:
        curve = [(position(item, round), rates) for round, rates in curves.learning_curve(item)]
        if curve and not item.is_variant and (by_round or curve[-1][0]):
            drawn.append(_curve(display_name(item.name), styles[item.name], curve))
    title = f"Win rate over {x_title}"
    return figure(
        f"{title}. {BAND}",
        line_chart(
            drawn,
            _levels(aggregate, aggregate.seeds),
            title=title,
            x_title=x_title,
            whole_x=by_round,
        ),
    )


def _curve(label: str, style: str, curve: curves.SeedCurve) -> Curve:
    return Curve(label, style, tuple(Point(x, *seed_range) for x, seed_range in curve))


def _levels(aggregate: Aggregate, seeds: Collection[int]) -> list[Level]:
    """The baselines, as lines across the chart."""
    return [
        Level(display_name(item.name), STYLES[item.name], mean)
        for item in aggregate.methods
        if item.name in (EXPERT, BC) and (mean := aggregate.mean_in(item, seeds)) is not None
    ]


def _sweep_charts(aggregate: Aggregate) -> Iterator[Html]:
    """The win rate over each option that is the only difference of some variants."""
    for sweep in curves.option_sweeps(aggregate):
        name = display_name(sweep.algorithm)
        title = f"Win rate of {name} over {sweep.option}"
        seeds = f"{count_of(len(sweep.seeds), 'seed')}: {', '.join(map(str, sweep.seeds))}"
        yield figure(
            f"{title}, all else equal (in {seeds}). {BAND}",
            line_chart(
                [_curve(name, method_styles(aggregate)[sweep.algorithm], sweep.curve)],
                _levels(aggregate, sweep.seeds),
                title=title,
                x_title=sweep.option,
                whole_x=all(x == round(x) for x, _ in sweep.curve),
            ),
        )


def _noise_charts(aggregate: Aggregate) -> Iterator[Html]:
    """The share of false labels over rollouts per state, for each label rule."""
    rules: tuple[tuple[LabelRule, str], ...] = (
        ("any", OTHER_STYLES[0]),
        ("majority", OTHER_STYLES[1]),
    )
    for item in aggregate.methods:
        if item.label_noise:
            drawn = [
                _curve(
                    rule,
                    style,
                    curves.false_state_curve(item, rule, item.noise_sizes(NOISE_ROLLOUTS)),
                )
                for rule, style in rules
            ]
            title = f"False labels of {display_name(item.name)} over rollouts per state"
            yield figure(
                f"{title}. A state is solvable if any rollout wins, or if the majority does. "
                f"{BAND}",
                line_chart(drawn, [], title=title, x_title="rollouts per state", whole_x=True),
            )


def _behavior_charts(aggregate: Aggregate) -> Iterator[Html]:
    """How often each behavior occurs per test episode after the last round, by method."""
    styles = method_styles(aggregate)
    for name in aggregate.behavior_names:
        bars = [
            (display_name(item.name), styles[item.name], mean)
            for item in aggregate.methods
            if not item.is_variant and (mean := item.final_behavior(name)) is not None
        ]
        title = f"{name}: times per test episode"
        yield figure(f"{title}, mean over seeds.", bar_chart(bars, title=title))
