"""Outcomes: the sections on the test tasks: scores, curves, comparisons, and what is done in won and lost episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eef.analysis.behaviors import BehaviorUse
from eef.analysis.results import Comparison, MethodResult, Results, Score
from eef.analysis.task_groups import GroupScore
from eef.envs.registry import env_spec
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import Curve, Level, Point, difference, line_chart, whisker
from eef.report.components import figure, fold, kind_of, method_cell, note, section, table
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


def draw_scores(results: Results) -> Html:
    """The main table: a row for each method, its last evaluated round."""
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
            "A win is a reward at the environment’s threshold; tasks are played greedily. The interval is Wilson’s. "
            "Newly solved: test tasks that neither the expert nor behaviour cloning wins. Rollouts and tokens "
            "(generated) count exploration, minutes all of a method’s own stages."
            + (
                ""
                if unsolved is None
                else f" Test tasks that no one has won in any round: {unsolved}."
            )
        ),
    )


def _score_row(method: MethodResult, results: Results, low: float, high: float) -> list[Content]:
    name, last, score = method_cell(method.name, results), method.last, method.score
    if last is None or score is None:
        return [name, *[NONE] * 9]
    picture = whisker(_point(0, score), kind_of(method.name, results), low, high)
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


def draw_curves(results: Results) -> Html:
    """Win rate over rounds and over rollouts; each method's line begins at behaviour cloning."""
    explorers = [method for method in results.round_methods if method.evaluated]
    if not explorers:
        return Html("")
    start = {EXPERT: None, BC: 0.0}
    levels = [
        Level(display_name(name), kind_of(name, results), score.win_rate, at)
        for name, at in start.items()
        if (score := results[name].score)
    ]
    rounds = [_curve(method, results, by_rollouts=False) for method in explorers]
    spent = [_curve(method, results, by_rollouts=True) for method in explorers]
    return section(
        "Win rate as it learns",
        tag(
            "div",
            figure(
                "Win rate (%) on the test tasks after each round, with 95 % intervals.",
                line_chart(
                    rounds, levels, title="Win rate over rounds", x_title="round", whole_x=True
                ),
            ),
            figure(
                "The same over all rollouts explored so far.",
                line_chart(
                    spent, levels, title="Win rate over rollouts", x_title="rollouts", whole_x=False
                ),
            ),
            class_="charts",
        ),
        fold("All rounds in numbers", _rounds_table(results)),
    )


def _curve(method: MethodResult, results: Results, *, by_rollouts: bool) -> Curve:
    """A method's evaluations behind that of behaviour cloning, where there is one."""
    first = results[BC].last
    places = [
        _point(method.rollouts_up_to(item.round) if by_rollouts else item.round, item.score)
        for item in [*([first] if first else []), *method.evaluated]
        if item.score is not None
    ]
    return Curve(display_name(method.name), kind_of(method.name, results), tuple(places))


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


def draw_comparisons(results: Results) -> Html:
    """Every pair of methods, tested on the same tasks."""
    if not results.comparisons:
        return Html("")
    reach = max(abs(end) for item in results.comparisons for end in item.wins.interval) or 1.0
    head = (
        "Pair",
        "Won by one alone",
        "Difference in win rate, points",
        "95 % interval",
        "p",
        f"p{NBSP}(Holm)",
        "Difference in mean reward",
    )
    rows = [_comparison_row(item, reach) for item in reversed(results.comparisons)]
    return section(
        "Pair by pair",
        table(head, rows, name="Comparisons"),
        note(
            "Paired over the same test tasks, each method in its last evaluated round. p: exact McNemar test; Holm’s "
            "correction takes all pairs together. Both weigh the choice of tasks, not the luck of one training: for "
            "that, repeat the run with other seeds."
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
        join([difference(item.wins.mean, low, high, reach), ends]),
        _bare(p_value(item.p_value)),
        _bare(p_value(item.p_adjusted)),
        f"{signed_reward(gap)} [{signed_reward(bounds.low)}, {signed_reward(bounds.high)}]",
    ]


def draw_kinds(results: Results) -> Html:
    """Scores × 100 by part and by kind of task: the final score, and behind it the highest on the way."""
    found = {
        method.name: last.kinds
        for method in results.methods
        if (last := method.last) and last.kinds
    }
    if not found:
        return Html("")
    first = next(iter(found.values()))
    rows = [_kind_row("all tasks", [each.all for each in found.values()])]
    rows += [
        _kind_row(name, [each.parts.get(name) for each in found.values()]) for name in first.parts
    ]
    rows.append(["mean of kinds", NONE, *(percent(each.mean_of_kinds) for each in found.values())])
    rows += [
        _kind_row(name, [each.kinds.get(name) for each in found.values()]) for name in first.kinds
    ]
    head = ("Tasks", "Number", *(display_name(name) for name in found))
    return section(
        "Score by kind of task",
        table(head, rows, name="TaskGroups"),
        note(
            "Mean score × 100. In brackets the mean of the highest score on the way, as ETO reports it: a failure "
            "after progress costs nothing there. The mean of kinds weighs each kind alike."
        ),
    )


def _kind_row(name: str, scores: Sequence[GroupScore | None]) -> list[Content]:
    tasks = next((score.tasks for score in scores if score), None)
    return [name, number(tasks), *(_kind_cell(score) for score in scores)]


def _kind_cell(score: GroupScore | None) -> str:
    return f"{percent(score.mean_reward)} ({percent(score.mean_peak)})" if score else NONE


def draw_skills(results: Results) -> Html:
    """Bars of each skill in won and lost test episodes, by method; skills that no one has used are only named."""
    rows = [
        (method.name, last.skills)
        for method in results.methods
        if (last := method.last) and last.skills
    ]
    if not rows:
        return Html("")
    used = {name: _most(name, rows) for name in rows[0][1]["won"].means}
    cards = [_skill_card(name, rows, results, most) for name, most in used.items() if most > 0]
    unused = [name for name, most in used.items() if most == 0]
    counting = env_spec(results.fingerprint["env"]).behaviors_note
    return section(
        "How they play",
        tag("div", *cards, class_="cards"),
        note(
            "Actions of a kind in a test episode, on average, in the last evaluated round; lost episodes are hatched."
            + (f" {counting}" if counting else "")
            + (f" Done by no one: {', '.join(unused)}." if unused else "")
        ),
    )


SkillRows = Sequence[tuple[str, Mapping[str, BehaviorUse]]]


def _most(skill: str, rows: SkillRows) -> float:
    return max(use.means[skill] or 0.0 for _, uses in rows for use in uses.values())


def _skill_card(skill: str, rows: SkillRows, results: Results, most: float) -> Html:
    drawn = []
    for method, uses in rows:
        kind = kind_of(method, results)
        bars = [_skill_bar(part, use.means[skill], most, kind) for part, use in uses.items()]
        drawn.append(tag("div", method_cell(method, results), tag("div", *bars), class_="skill"))
    return tag("section", tag("h3", skill), *drawn, class_="card")


def _skill_bar(part: str, mean: float | None, most: float, kind: str) -> Html:
    bar = tag("span", class_=f"bar {part} {kind}", style=f"width:{100 * (mean or 0.0) / most:.1f}%")
    value = tag("span", f"{part} {NONE if mean is None else f'{mean:.2f}'}", class_="value")
    return tag("div", tag("span", bar, class_="track"), value, class_="skill-line")


def _point(x: float, score: Score) -> Point:
    return Point(x, score.win_rate, score.interval.low, score.interval.high)


def _reward_text(score: Score | None) -> str:
    if score is None:
        return NONE
    return f"{reward(score.mean_reward)} [{reward(score.reward_interval.low)}, {reward(score.reward_interval.high)}]"


def _bare(p: str) -> str:
    """A p value for a column that is named so."""
    return p.replace(NBSP, " ").removeprefix("p = ").removeprefix("p ")
