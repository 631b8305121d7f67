"""Figures: curves over rounds and over what was spent, an arm's option, label noise, skills. Numbers → markup."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from statistics import fmean

from eef.analysis.aggregate import Aggregate, MethodAggregate
from eef.methods.labels import LabelRule
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import Curve, Level, Point, bar_chart, line_chart
from eef.report.components import KINDS, OTHERS, figure
from eef.report.formatting import count_of, display_name
from eef.report.html import Html, tag
from eef.report.study_tables import NOISE_ROLLOUTS, skill_names

BAND = "The band reaches from the worst to the best seed."


def draw_figures(over: Aggregate) -> Html:
    """All figures for which there are numbers."""
    spent: tuple[tuple[str, Callable[[MethodAggregate, int], float]], ...] = (
        ("round", lambda item, round: round),
        ("rollouts explored", lambda item, round: item.explored[round].rollouts),
        ("tokens generated exploring", lambda item, round: item.explored[round].generated_tokens),
    )
    curves = [_over(over, title, place) for title, place in spent]
    drawn = [*curves, *_options(over), *_noise(over), *_skills(over)]
    return tag("div", *drawn, class_="charts")


def kinds_of(over: Aggregate) -> dict[str, str]:
    """The class of each method's colour and sign; an arm has its method's."""
    others = [item.name for item in over.methods if item.name not in KINDS and not item.is_arm]
    kinds = {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)} | KINDS
    return kinds | {
        item.name: kinds.get(item.algorithm, OTHERS[0]) for item in over.methods if item.is_arm
    }


def _over(over: Aggregate, x_title: str, place: Callable[[MethodAggregate, int], float]) -> Html:
    """Mean win rate of each method that is no arm, round by round."""
    kinds, curves = kinds_of(over), []
    for item in over.methods:
        known = {
            round: rates
            for round, each in item.rounds.items()
            if round
            and round in item.explored
            and (rates := [rate for rate in each if rate is not None])
        }
        if known and not item.is_arm and (x_title == "round" or place(item, max(known))):
            points = tuple(
                Point(place(item, round), fmean(rates), min(rates), max(rates))
                for round, rates in known.items()
            )
            curves.append(Curve(display_name(item.name), kinds[item.name], points))
    title = f"Win rate over {x_title}"
    return figure(
        f"{title}. {BAND}",
        line_chart(
            curves,
            _levels(over, over.seeds),
            title=title,
            x_title=x_title,
            whole_x=x_title == "round",
        ),
    )


def _levels(over: Aggregate, seeds: Collection[int]) -> list[Level]:
    return [
        Level(display_name(item.name), KINDS[item.name], fmean(rates))
        for item in over.methods
        if item.name in (EXPERT, BC) and (rates := over.rates_in(item, seeds))
    ]


def _options(over: Aggregate) -> Iterator[Html]:
    """For each number among a method's options that arms change and nothing else: the win rate over it, in the seeds
    that all of them have.

    An option that the method itself leaves open (`cap` of `rft`) has no place on such an axis.
    """
    methods: Mapping[str, MethodAggregate] = {item.name: item for item in over.methods}
    swept: dict[tuple[str, str], list[tuple[float, MethodAggregate]]] = {}
    for item in over.methods:
        given = methods[item.algorithm].options if item.is_arm else {}
        numbers = {
            key: value
            for key, value in item.changes.items()
            if type(value) in (int, float) and type(given.get(key)) in (int, float)
        }
        if item.is_arm and len(item.changes) == len(numbers) == 1:
            [(key, value)] = numbers.items()
            swept.setdefault((item.algorithm, key), []).append((float(value), item))
    for (algorithm, key), arms in swept.items():
        arms.append((float(methods[algorithm].options[key]), methods[algorithm]))
        begun = sorted((arm for arm in arms if arm[1].known), key=lambda arm: arm[0])
        seeds = [
            seed for seed in over.seeds if all(over.rates_in(item, [seed]) for _, item in begun)
        ]
        if begun and seeds:
            rates = [(value, over.rates_in(item, seeds)) for value, item in begun]
            points = tuple(Point(value, fmean(each), min(each), max(each)) for value, each in rates)
            title = f"Win rate of {display_name(algorithm)} over {key}"
            curve = Curve(display_name(algorithm), kinds_of(over)[algorithm], points)
            played = f"in {count_of(len(seeds), 'seed')}: {', '.join(map(str, seeds))}"
            yield figure(
                f"{title}, all else equal ({played}). {BAND}",
                line_chart([curve], _levels(over, seeds), title=title, x_title=key, whole_x=True),
            )


def _noise(over: Aggregate) -> Iterator[Html]:
    rules: tuple[tuple[LabelRule, str], ...] = (("any", OTHERS[0]), ("majority", OTHERS[1]))
    for item in over.methods:
        if item.noise:
            curves = []
            for rule, kind in rules:
                rates = {
                    n: [noise.false_rates(n, rule).states for noise in item.noise]
                    for n in NOISE_ROLLOUTS
                }
                points = tuple(
                    Point(n, fmean(each), min(each), max(each)) for n, each in rates.items()
                )
                curves.append(Curve(f"{rule}", kind, points))
            title = f"False labels of {display_name(item.name)} over rollouts a state"
            yield figure(
                f"{title}: ok if any wins, or the majority does. {BAND}",
                line_chart(curves, [], title=title, x_title="rollouts a state", whole_x=True),
            )


def _skills(over: Aggregate) -> Iterator[Html]:
    """For each kind of action: how often each method does it in a test episode after its last round."""
    kinds = kinds_of(over)
    for name in skill_names(over):
        bars = []
        for item in over.methods:
            uses = item.skills.get(max(item.skills, default=0), ())
            means = [
                sum(part.episodes * (part.means[name] or 0.0) for part in use.values())
                / max(1, sum(part.episodes for part in use.values()))
                for use in uses
                if use
            ]
            if means and not item.is_arm:
                bars.append((display_name(item.name), kinds[item.name], fmean(means)))
        title = f"{name}: times in a test episode"
        yield figure(f"{title}, mean over seeds.", bar_chart(bars, title=title))
