"""Tables: what a study says, in rows of text; the document and the page show the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from eef.analysis.aggregate import Aggregate, MethodAggregate, PairAggregate
from eef.analysis.stats import Difference
from eef.methods.labels import LabelRule
from eef.pipeline.stages import BC, EXPERT
from eef.report.formatting import (
    NONE,
    count_of,
    display_name,
    minutes,
    number,
    p_value,
    percent,
    points,
    reward,
)

EXPLORING = (
    "rollouts",
    "env_steps",
    "replayed_steps",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
)
NOISE_ROLLOUTS = (1, 3, 5)
PAIR_HEAD = ("[over tasks and seeds]", "seeds", "p", "p (Holm)", "p over seeds")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head; the first column names the row. `note`: how to read it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables_of(over: Aggregate) -> list[Table]:
    """The tables of one budget; those without a row are left out."""
    made = (
        _methods(over),
        _pairs(over),
        _arms(over),
        _selected(over),
        _noise(over),
        _difficulty(over),
        _skills(over),
        _costs(over),
    )
    return [table for table in made if table.rows]


def verdict(over: Aggregate) -> str:
    """What came out in one sentence: `eef`, or else the best method, beside the best method of another kind.

    Empty while there are no two methods with a seed in common.
    """
    known = sorted(
        (
            item
            for item in over.methods
            if item.mean is not None and item.name not in (EXPERT, BC) and not item.is_arm
        ),
        key=lambda item: item.mean or 0.0,
        reverse=True,
    )
    subject = next((item for item in known if item.name == "eef"), next(iter(known), None))
    rival = next((item for item in known if subject and item.algorithm != subject.algorithm), None)
    pair = pair_of(over, subject.name, rival.name) if subject and rival else None
    if subject is None or rival is None or pair is None:
        return ""
    sign = 1 if pair.first == subject.name else -1
    ours, theirs = (fmean(over.rates_in(item, pair.seeds)) for item in (subject, rival))
    low, high = sorted(sign * end for end in pair.both.interval)
    return (
        f"In {count_of(len(pair.seeds), 'seed')} {display_name(subject.name)} wins {percent(ours)} % of the test tasks "
        f"and {display_name(rival.name)} {percent(theirs)} %; on the same tasks the difference is "
        f"{points(sign * pair.difference.mean)} points (95 % over tasks and seeds: {points(low)} to {points(high)}). "
        f"Of these trained students on other tasks: {p_value(pair.p_value)}"
        + (
            f"; of students trained anew, on these tasks: {p_value(pair.effects.p_value)}."
            if pair.effects
            else "."
        )
    )


def pair_of(over: Aggregate, one: str, other: str) -> PairAggregate | None:
    """The pair of two methods in the order it is kept, None where they have no seed in common."""
    return next((pair for pair in over.pairs if {pair.first, pair.second} == {one, other}), None)


def arms_of(over: Aggregate) -> list[MethodAggregate]:
    return [item for item in over.methods if item.is_arm]


def changes_text(item: MethodAggregate) -> str:
    """`M = 3, ok_rule = majority`"""
    return ", ".join(f"{key} = {_plain(value)}" for key, value in item.changes.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _methods(over: Aggregate) -> Table:
    by_seed = [f"seed {seed}" for seed in over.seeds]
    head = ("method", "win rate %", "± sd", *by_seed, "mean reward", "pass@k (training)")
    rows = [
        (
            display_name(item.name),
            percent(item.mean),
            percent(item.deviation),
            *map(percent, item.win_rates),
            reward(item.mean_reward),
            _pass(item),
        )
        for item in over.methods
    ]
    uneven = any(None in item.win_rates for item in over.methods)
    return Table(
        "Methods and arms after the last round, greedy on the test tasks",
        head,
        rows,
        "Each mean is over the seeds there are; the tables of differences take those that both have."
        if uneven
        else "",
    )


def _pass(item: MethodAggregate) -> str:
    return f"{percent(item.pass_at_k[1])} (k = {item.pass_at_k[0]})" if item.pass_at_k else NONE


def _pairs(over: Aggregate) -> Table:
    arms = {item.name for item in arms_of(over)}
    head = (
        "pair",
        "difference, points [95 % over tasks]",
        *PAIR_HEAD,
        "by seed: only first : only second",
        "tasks only one ever won",
    )
    rows = [
        (
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            *_pair_cells(pair),
            ", ".join(f"{test.only_first} : {test.only_second}" for test in pair.by_seed),
            f"{pair.first_alone} : {pair.second_alone}",
        )
        for pair in over.pairs
        if not {pair.first, pair.second} & arms
    ]
    note = (
        "p: exact sign-flip test over tasks, all seeds of a task together: would these trained students differ on "
        "other tasks? Holm’s correction over this table. p over seeds: t test on the seeds’ differences, the seed as a "
        "random effect: would students trained anew differ on these tasks? Tasks only one ever won: by the one in any "
        "seed after its last round, by the other in no seed and no round."
    )
    return Table("Pairs of methods on the same tasks", head, rows, note)


def _pair_cells(pair: PairAggregate) -> tuple[str, ...]:
    """The difference with its interval over tasks, then what stands under `PAIR_HEAD`; a dash for what one seed cannot
    tell."""
    return (
        f"{points(pair.difference.mean)} {_interval(pair.difference)}",
        _interval(pair.both) if len(pair.seeds) > 1 else NONE,
        str(len(pair.seeds)),
        f"{pair.p_value:.4f}",
        f"{pair.p_adjusted:.4f}",
        f"{pair.effects.p_value:.4f}" if pair.effects else NONE,
    )


def _interval(difference: Difference) -> str:
    low, high = difference.interval
    return f"[{points(low)}, {points(high)}]"


def _arms(over: Aggregate) -> Table:
    head = (
        "arm",
        "of",
        "differs in",
        "win rate %",
        "minus its method, points [95 % over tasks]",
        *PAIR_HEAD,
    )
    rows = []
    for item in arms_of(over):
        pair = pair_of(over, item.name, item.algorithm)
        told = _pair_cells(pair) if pair else (NONE,) * (1 + len(PAIR_HEAD))
        names = display_name(item.name), display_name(item.algorithm), changes_text(item)
        rows.append((*names, percent(item.mean), *told))
    note = "Only seeds that both have; p as above, Holm’s correction over this table."
    return Table("Arms: a method with other options", head, rows, note)


def _selected(over: Aggregate) -> Table:
    head = (
        "method",
        "training tasks without a solution",
        "examples",
        "pairs",
        "actions of the student’s rollouts",
        "actions taken over",
        "of them beneficial",
        "neutral",
        "states that need recovery",
        "recovered",
    )
    rows = []
    for item in over.methods:
        if counts := item.selected:
            steps = {
                name.removeprefix("steps."): n
                for name, n in counts.items()
                if name.startswith("steps.")
            }
            own = steps.pop("student-win", 0)
            given = (sum(steps.values()), steps.get("beneficial"), steps.get("neutral"))
            trained = (own, *given) if counts.get("examples") else (None,) * 4
            named = (counts.get(name) for name in ("states.recovery", "states.recovered"))
            rows.append(
                (
                    display_name(item.name),
                    *map(
                        _count,
                        (
                            counts.get("tasks.unsolved"),
                            counts.get("examples"),
                            counts.get("pairs"),
                            *trained,
                            *named,
                        ),
                    ),
                )
            )
    note = (
        "A solution of a task is a win, the expert’s or the student’s, from its start or on from a state inside a "
        "trajectory; what NAT and SFT-ALL take instead is each trajectory of the expert. Actions are those trained; "
        "those taken over are the expert’s or, with `branch_from = student`, of the failure that was played on from."
    )
    return Table("What is trained on in the last round, mean over seeds", head, rows, note)


def _count(mean: float | None) -> str:
    return NONE if mean is None else f"{mean:,.1f}"


def _noise(over: Aggregate) -> Table:
    head = (
        "method",
        "rollouts a state",
        "ok if",
        "false states %",
        "false segments %",
        "false among beneficial %",
        "among harmful %",
        "states",
        "rollouts played",
    )
    rules: tuple[LabelRule, ...] = ("any", "majority")
    rows = [
        _noise_row(item, n, rule)
        for item in over.methods
        if item.noise
        for n in NOISE_ROLLOUTS
        for rule in rules
        if n > 1 or rule == "any"  # one rollout is its own majority
    ]
    note = (
        "False: not what the majority of all rollouts from that state says. Segment: an expert’s actions between two "
        "states. Most segments are neutral in truth, so that few false ones are many of those labelled otherwise."
    )
    return Table("Label noise", head, rows, note)


def _noise_row(item: MethodAggregate, n: int, rule: LabelRule) -> Sequence[str]:
    rates = [noise.false_rates(n, rule) for noise in item.noise]
    parts = (
        [value for rate in rates if (value := getattr(rate, name)) is not None]
        for name in ("segments", "beneficial", "harmful")
    )
    played = [state.rollouts for noise in item.noise for state in noise.states]
    return (
        display_name(item.name),
        str(n),
        rule if n > 1 else "it wins",
        percent(fmean(rate.states for rate in rates)),
        *(percent(fmean(part) if part else None) for part in parts),
        str(len(played)),
        number(sum(played)),
    )


def _difficulty(over: Aggregate) -> Table:
    levels = [level for level in ("easy", "medium", "hard") if level in over.tasks]
    head = (
        "method",
        *(f"{level} ({over.tasks[level]})" for level in levels),
        "newly solved, by seed",
    )
    rows: list[Sequence[str]] = [
        (
            display_name(item.name),
            *(f"{item.solved.get(level, 0.0):.1f}" for level in levels),
            ", ".join(map(number, item.newly_solved)),
        )
        for item in over.methods
        if item.known
    ]
    rows.append(
        ("never solved by anyone", *(str(over.never_solved.get(level, 0)) for level in levels), "")
    )
    return Table(
        "Test tasks solved after the last round, mean over seeds",
        head,
        rows,
        "Easy: won in more than two thirds of the evaluations of expert and behaviour cloning, all seeds together; "
        "hard: in less than a third. Newly solved: won by neither of the two with the same seed.",
    )


def _skills(over: Aggregate) -> Table:
    names = skill_names(over)
    rows = [
        (display_name(item.name), str(round), part, *(mean_use(uses, part, name) for name in names))
        for item in over.methods
        for round, uses in item.skills.items()
        if uses and uses[0] and not (item.is_arm and round < max(item.skills))
        for part in ("won", "lost")
    ]
    return Table(
        "Actions of a kind in a test episode",
        ("method", "round", "episodes", *names),
        rows,
        "Of arms the last round alone." if arms_of(over) else "",
    )


def skill_names(over: Aggregate) -> list[str]:
    return list(
        dict.fromkeys(
            name
            for item in over.methods
            for uses in item.skills.values()
            for use in uses
            if use
            for name in use["won"].means
        )
    )


def mean_use(uses: Iterable[Any], part: str, name: str) -> str:
    """How often an action is done in an episode, mean over seeds."""
    known = [use[part].means[name] for use in uses if use and use[part].means[name] is not None]
    return f"{fmean(known):.2f}" if known else NONE


def _costs(over: Aggregate) -> Table:
    exploring = (f"{name.replace('_', ' ')}, exploring" for name in EXPLORING)
    head = ("method", *exploring, "updates", "processed tokens, training", "minutes in all")
    rows = []
    for item in over.methods:
        explored = item.explored.get(max(item.rounds))
        spent = asdict(explored) if explored else {}
        rows.append(
            (
                display_name(item.name),
                *(number(spent.get(name)) for name in EXPLORING),
                number(item.cost.updates if item.cost else None),
                number(item.cost.processed_tokens if item.cost else None),
                minutes(item.cost.seconds if item.cost else None),
            )
        )
    note = (
        "Of finished pieces. The experts’ rollouts are those of all experts together; a method with some of them has "
        "its part. Minutes are wall-clock time, on machines that may have had other work beside it."
    )
    return Table("Cost, mean over seeds", head, rows, note)
