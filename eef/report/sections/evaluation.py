"""The sections on test tasks: scores, learning curves, comparisons, task groups and behaviors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eef.analysis.behaviors import BehaviorUse
from eef.analysis.results import Comparison, MethodResult, Results, Score
from eef.analysis.task_groups import GroupScore
from eef.envs.registry import report_spec
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import Curve, Level, Point, difference_whisker, line_chart, whisker
from eef.report.components import (
    Section,
    figure,
    fold,
    method_cell,
    note,
    section,
    style_of,
    table,
)
from eef.report.formatting import (
    NBSP,
    NONE,
    display_name,
    interval_text,
    minutes,
    number,
    p_value,
    percent,
    points,
    reward,
    round_name,
    signed_reward,
)
from eef.report.html import Content, Html, join, tag


def draw_scores(results: Results) -> Section:
    """The main table: each method after its last evaluated round."""
    bounds = [end for method in results.methods if method.score for end in method.score.interval]
    low, high = max(0.0, min(bounds, default=0.0) - 0.02), min(1.0, max(bounds, default=1.0) + 0.02)
    head = (
        "Method",
        "Round",
        "Win rate %",
        "95 % interval",
        "Mean reward",
        "Finished %",
        "Newly solved",
        "Rollouts",
        "Tokens",
        "Minutes",
    )
    rows = [_score_row(method, results, low, high) for method in results.methods]
    unsolved = results.never_solved
    return section(
        "Result",
        table(head, rows, name="Result"),
        note(
            "A task is won if its reward reaches the environment’s threshold. Tasks are played "
            "greedily, unless evaluate.temperature is set. The interval is Wilson’s. Newly "
            "solved: test tasks won by neither the expert nor behavior cloning. Rollouts and "
            "generated tokens count exploration; minutes count all stages of the method itself."
            + (
                ""
                if unsolved is None
                else f" Test tasks won by no method in any round: {unsolved}."
            )
        ),
    )


def _score_row(method: MethodResult, results: Results, low: float, high: float) -> list[Content]:
    name, last, score = method_cell(method.name, results), method.last, method.score
    if last is None or score is None:
        return [name, *[NONE] * 9]
    picture = whisker(_point(0, score), style_of(method.name, results), low, high)
    ends = tag(
        "span", f"{percent(score.interval.low)} – {percent(score.interval.high)}", class_="ends"
    )
    return [
        name,
        round_name(last),
        tag("strong", percent(score.win_rate)),
        join([picture, ends]),
        reward(score.mean_reward),
        percent(score.finished),
        number(last.newly_solved),
        number(method.rollouts),
        number(method.tokens),
        minutes(method.seconds),
    ]


def draw_curves(results: Results) -> Section | None:
    """Win rate over rounds and over rollouts; each method's curve starts at behavior cloning."""
    explorers = [method for method in results.round_methods if method.evaluated]
    if not explorers:
        return None
    start = {EXPERT: None, BC: 0.0}
    levels = [
        Level(display_name(name), style_of(name, results), score.win_rate, at)
        for name, at in start.items()
        if (score := results[name].score)
    ]
    rounds = [_curve(method, results, by_rollouts=False) for method in explorers]
    spent = [_curve(method, results, by_rollouts=True) for method in explorers]
    return section(
        "Learning curves",
        tag(
            "div",
            figure(
                "Win rate (%) on the test tasks after each round, with 95 % intervals.",
                line_chart(
                    rounds, levels, title="Win rate over rounds", x_title="round", whole_x=True
                ),
            ),
            figure(
                "The same over the number of rollouts explored so far.",
                line_chart(
                    spent, levels, title="Win rate over rollouts", x_title="rollouts", whole_x=False
                ),
            ),
            class_="charts",
        ),
        fold("All rounds as a table", _rounds_table(results)),
    )


def _curve(method: MethodResult, results: Results, *, by_rollouts: bool) -> Curve:
    """A method's evaluations, preceded by that of behavior cloning if there is one."""
    first = results[BC].last
    points = [
        _point(method.rollouts_up_to(item.round) if by_rollouts else item.round, item.score)
        for item in [*([first] if first else []), *method.evaluated]
        if item.score is not None
    ]
    return Curve(display_name(method.name), style_of(method.name, results), tuple(points))


def _rounds_table(results: Results) -> Html:
    head = (
        "Method",
        "Round",
        "Win rate % [95 %]",
        "Mean reward [95 %]",
        "Newly solved",
        "Rollouts so far",
    )
    rows = [
        [
            method_cell(method.name, results),
            round_name(item),
            interval_text(item.score),
            _reward_text(item.score),
            number(item.newly_solved),
            number(method.rollouts_up_to(item.round)),
        ]
        for method in results.methods
        for item in method.evaluated
    ]
    return table(head, rows, name="All rounds")


def draw_comparisons(results: Results) -> Section | None:
    """Every pair of methods, tested on the same tasks."""
    if not results.comparisons:
        return None
    reach = max(abs(end) for item in results.comparisons for end in item.wins.interval) or 1.0
    head = (
        "Pair",
        "Won by only one",
        "Difference in win rate, points",
        "95 % interval",
        "p",
        f"p{NBSP}(Holm)",
        "Difference in mean reward",
    )
    rows = [_comparison_row(item, reach) for item in reversed(results.comparisons)]
    return section(
        "Pairwise comparisons",
        table(head, rows, name="Pairwise comparisons"),
        note(
            "Paired over the same test tasks, each method after its last evaluated round. p: exact "
            "McNemar test. p (Holm): corrected for all pairs of this table. Both account for the "
            "choice of tasks, not for chance in a single training. To measure that, repeat the run "
            "with other seeds (`eef compare`)."
        ),
    )


def _comparison_row(item: Comparison, reach: float) -> list[Content]:
    low, high = item.wins.interval
    ends = tag("span", f"{points(low)} to {points(high)}", class_="ends wide")
    gap, bounds = item.reward.mean, item.reward.interval
    return [
        f"{display_name(item.first)} − {display_name(item.second)}",
        f"{item.only_first} : {item.only_second}",
        tag("strong", points(item.wins.mean)),
        join([difference_whisker(item.wins.mean, low, high, reach), ends]),
        _bare(p_value(item.p_value)),
        _bare(p_value(item.p_adjusted)),
        f"{signed_reward(gap)} [{signed_reward(bounds.low)}, {signed_reward(bounds.high)}]",
    ]


def draw_task_groups(results: Results) -> Section | None:
    """Scores × 100 by part and by group of tasks: the final score, then the max score."""
    found = {
        method.name: last.task_groups
        for method in results.methods
        if (last := method.last) and last.task_groups
    }
    if not found:
        return None
    first = next(iter(found.values()))
    rows = [_group_row("all tasks", [each.all for each in found.values()])]
    rows += [
        _group_row(name, [each.parts.get(name) for each in found.values()]) for name in first.parts
    ]
    rows.append(
        ["mean of groups", NONE, *(percent(each.mean_of_groups) for each in found.values())]
    )
    rows += [
        _group_row(name, [each.groups.get(name) for each in found.values()])
        for name in first.groups
    ]
    head = ("Tasks", "Number", *(display_name(name) for name in found))
    return section(
        "Scores by task group",
        table(head, rows, name="Scores by task group"),
        note(
            "Mean final score × 100. In parentheses, the mean of the highest score during an "
            "episode, which ETO reports: it does not drop when an episode fails after making "
            "progress. The mean of groups gives all groups equal weight."
        ),
    )


def _group_row(name: str, scores: Sequence[GroupScore | None]) -> list[Content]:
    tasks = next((score.tasks for score in scores if score), None)
    return [name, number(tasks), *(_group_cell(score) for score in scores)]


def _group_cell(score: GroupScore | None) -> str:
    return f"{percent(score.mean_reward)} ({percent(score.mean_max_score)})" if score else NONE


def draw_behaviors(results: Results) -> Section | None:
    """Bars of each behavior in won and lost test episodes, by method.

    Behaviors that no method shows are only named.
    """
    rows = [
        (method.name, last.behaviors)
        for method in results.methods
        if (last := method.last) and last.behaviors
    ]
    if not rows:
        return None
    used = {name: _most(name, rows) for name in rows[0][1]["won"].means}
    cards = [_behavior_card(name, rows, results, most) for name, most in used.items() if most > 0]
    unused = [name for name, most in used.items() if most == 0]
    counting = report_spec(results.fingerprint["env"]).behaviors_note
    return section(
        "Agent behavior",
        tag("div", *cards, class_="cards"),
        note(
            "Mean number of actions per test episode after the last evaluated round. Lost episodes "
            "are hatched."
            + (f" {counting}" if counting else "")
            + (f" Not seen in any method: {', '.join(unused)}." if unused else "")
        ),
    )


BehaviorRows = Sequence[tuple[str, Mapping[str, BehaviorUse]]]


def _most(name: str, rows: BehaviorRows) -> float:
    return max(use.means[name] or 0.0 for _, uses in rows for use in uses.values())


def _behavior_card(name: str, rows: BehaviorRows, results: Results, most: float) -> Html:
    drawn = []
    for method, uses in rows:
        style = style_of(method, results)
        bars = [_behavior_bar(part, use.means[name], most, style) for part, use in uses.items()]
        drawn.append(tag("div", method_cell(method, results), tag("div", *bars), class_="behavior"))
    return tag("section", tag("h3", name), *drawn, class_="card")


def _behavior_bar(part: str, mean: float | None, most: float, style: str) -> Html:
    width = f"width:{100 * (mean or 0.0) / most:.1f}%"
    bar = tag("span", class_=f"bar {part} {style}", style=width)
    value = tag("span", f"{part} {NONE if mean is None else f'{mean:.2f}'}", class_="value")
    return tag("div", tag("span", bar, class_="track"), value, class_="behavior-line")


def _point(x: float, score: Score) -> Point:
    return Point(x, score.win_rate, score.interval.low, score.interval.high)


def _reward_text(score: Score | None) -> str:
    if score is None:
        return NONE
    low, high = map(reward, score.reward_interval)
    return f"{reward(score.mean_reward)} [{low}, {high}]"


def _bare(p: str) -> str:
    """A p value for a column whose head is `p`."""
    return p.replace(NBSP, " ").removeprefix("p = ").removeprefix("p ")
