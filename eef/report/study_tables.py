"""Tables of a study as rows of text; the Markdown document and the HTML page show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eef.analysis.aggregate import Aggregate, MethodAggregate, PairAggregate
from eef.analysis.curves import learning_curve
from eef.analysis.stats import Difference, SeedTest
from eef.methods.labels import LabelRule
from eef.pipeline.ledger import Cost
from eef.report.formatting import (
    NONE,
    display_name,
    minutes,
    named_models,
    number,
    percent,
    points,
    reward,
    signed_reward,
    tokens_by_role,
)

EXPLORATION_COSTS = (
    "rollouts",
    "env_steps",
    "replayed_steps",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
)
NOISE_ROLLOUTS = (1, 3, 5)
PAIR_COLUMNS = ("[over tasks and seeds]", "seeds", "p", "p (Holm)", "p over seeds (t test)")
REWARD_COLUMNS = ("mean reward, difference [over tasks and seeds]", "p over seeds, reward")


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Rows of text under a head; the first column names the row. `note` explains how to read it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def make_tables(aggregate: Aggregate) -> list[StudyTable]:
    """The tables of one budget that have a row."""
    made = (
        _methods(aggregate),
        _models(aggregate),
        _learning(aggregate),
        _pairs(aggregate),
        _variants(aggregate),
        _training_data(aggregate),
        _label_noise(aggregate),
        _difficulty(aggregate),
        _behaviors(aggregate),
        _costs(aggregate),
    )
    return [table for table in made if table.rows]


def changes_text(item: MethodAggregate) -> str:
    """`M = 3, label_rule = majority`"""
    return ", ".join(f"{key} = {_plain(value)}" for key, value in item.changes.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _methods(aggregate: Aggregate) -> StudyTable:
    by_seed = [f"seed {seed}" for seed in aggregate.seeds]
    head = ("method", "win rate %", "± sd", *by_seed, "mean reward", "pass@k (training)")
    rows = [
        (
            display_name(item.name),
            percent(item.mean),
            percent(item.deviation),
            *map(percent, item.win_rates),
            reward(item.mean_reward),
            _pass_at_k(item),
        )
        for item in aggregate.methods
    ]
    notes = []
    if any(None in item.win_rates for item in aggregate.methods):
        notes.append(
            "Each mean is over the seeds that are finished. The tables of differences use the "
            "seeds that both methods have finished."
        )
    rounds = {item.name: max(item.rounds) for item in aggregate.methods if max(item.rounds)}
    if len(set(rounds.values())) > 1:
        given = ", ".join(f"{display_name(name)} {count}" for name, count in rounds.items())
        notes.append(f"Rounds: {given}.")
    title = "Methods and variants after the last round, on the test tasks"
    return StudyTable(title, head, rows, " ".join(notes))


def _pass_at_k(item: MethodAggregate) -> str:
    return f"{percent(item.pass_at_k[1])} (k = {item.pass_at_k[0]})" if item.pass_at_k else NONE


def _learning(aggregate: Aggregate) -> StudyTable:
    """The points of the learning curves, if any method has more than one."""
    points = [
        (item, round, rates)
        for item in aggregate.methods
        if not item.is_variant
        for round, rates in learning_curve(item)
    ]
    rows = [
        (
            display_name(item.name),
            str(round),
            number(item.explored[round].rollouts),
            number(generated_exploring(item, round)),
            percent(rates.mean),
            f"{percent(rates.low)} – {percent(rates.high)}",
        )
        for item, round, rates in points
    ]
    return StudyTable(
        "Win rates on the test tasks over the budget",
        ("method", "round", "rollouts", "generated tokens", "win rate %", "worst to best seed"),
        rows if len({item.name for item, *_ in points}) < len(points) else (),
        "Rollouts and generated tokens are those of exploration up to the round. The tokens "
        "include those of roles.",
    )


def generated_exploring(item: MethodAggregate, round: int) -> int:
    """Tokens that the student and the roles generated exploring, up to a round; seeds' mean."""
    return item.explored[round].generated_tokens + item.explored[round].role_tokens


def _models(aggregate: Aggregate) -> StudyTable:
    """The models beside the student and their costs, if a method asks any."""
    head = (
        "method",
        "win rate %, first attempt",
        "win rate % within 2, 3, … attempts",
        "success known at test time",
        "models at test time",
        "further models in training",
        "completions per turn at test time",
        "rollouts, exploring",
        "tokens of the student, exploring",
        "tokens of roles, exploring",
        "tokens of each role, all stages",
    )
    rows = [
        (
            display_name(item.name),
            percent(item.mean),
            ", ".join(map(percent, item.rates_by_attempt[1:])) or NONE,
            "yes" if item.asked.success_known else "no",
            named_models(item.asked.at_test),
            named_models(item.asked.in_training),
            NONE if item.completions_per_turn is None else f"{item.completions_per_turn:.1f}",
            *_exploration_cells(item.exploration),
            tokens_by_role(item.cost.roles) if item.cost else NONE,
        )
        for item in aggregate.methods
    ]
    note = (
        "A win rate with models at test time, known success or several completions per turn costs "
        "more than that of a student without roles. Completions include those of roles. Tokens are "
        "means over seeds; scripted roles count words. The training of roles is part of the costs "
        "of training."
    )
    shown = rows if any(item.asked.any for item in aggregate.methods) else []
    return StudyTable("Models beside the student, and what they cost", head, shown, note)


def _exploration_cells(cost: Cost | None) -> tuple[str, str, str]:
    """Rollouts, tokens of the student and tokens of all roles."""
    if cost is None:
        return NONE, NONE, NONE
    return number(cost.rollouts), number(cost.generated_tokens), number(cost.role_tokens)


def _pairs(aggregate: Aggregate) -> StudyTable:
    variants = {item.name for item in aggregate.variants}
    head = (
        "pair",
        "difference, points [95 % over tasks]",
        *PAIR_COLUMNS,
        *REWARD_COLUMNS,
        "by seed: only first : only second",
        "tasks only one ever won",
    )
    rows = [
        (
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            *_pair_cells(pair),
            *_reward_cells(pair),
            ", ".join(f"{test.only_first} : {test.only_second}" for test in pair.by_seed),
            f"{pair.first_alone} : {pair.second_alone}",
        )
        for pair in aggregate.pairs
        if not {pair.first, pair.second} & variants
    ]
    note = (
        "p: exact sign-flip test over tasks, with all seeds of a task together. It asks whether "
        "these trained students would differ on other tasks. p (Holm): corrected for all pairs of "
        "this table. p over seeds: paired t test on the seeds’ mean differences. It asks whether "
        "newly trained students would differ on these tasks. If the seeds’ means agree more "
        "closely than chance in the outcomes of tasks explains, the p value in [brackets] uses the "
        "deviation expected from chance. Tasks only one ever won: won by one method after the last "
        "round of any seed, and by the other in no round of any seed."
    )
    return StudyTable("Pairwise comparisons on the same tasks", head, rows, note)


def _pair_cells(pair: PairAggregate) -> tuple[str, ...]:
    """The difference with its interval over tasks, then the cells of `PAIR_COLUMNS`."""
    several = len(pair.seeds) > 1
    return (
        f"{points(pair.over_tasks.mean)} {_interval(pair.over_tasks)}",
        _interval(pair.over_both) if several else NONE,
        str(len(pair.seeds)),
        f"{pair.p_value:.4f}",
        f"{pair.p_adjusted:.4f}",
        _seed_cell(pair.over_seeds),
    )


def _seed_cell(test: SeedTest | None) -> str:
    """The p value over seeds; in brackets that with the floor, if it is larger."""
    if test is None:
        return NONE
    floor = f" [{test.floor_p_value:.4f}]" if test.floor_p_value > test.p_value else ""
    return f"{test.p_value:.4f}{floor}"


def _reward_cells(pair: PairAggregate) -> tuple[str, str]:
    """The cells of `REWARD_COLUMNS`."""
    low, high = map(signed_reward, pair.reward.interval)
    return (
        f"{signed_reward(pair.reward.mean)} [{low}, {high}]",
        _seed_cell(pair.reward_over_seeds),
    )


def _interval(difference: Difference) -> str:
    low, high = difference.interval
    return f"[{points(low)}, {points(high)}]"


def _variants(aggregate: Aggregate) -> StudyTable:
    head = (
        "variant",
        "of",
        "changes",
        "win rate %",
        "minus its method, points [95 % over tasks]",
        *PAIR_COLUMNS,
        *_control_columns(aggregate),
    )
    rows = []
    for item in aggregate.variants:
        names = display_name(item.name), display_name(item.algorithm), changes_text(item)
        if item.repeats is None:
            pair = aggregate.pair(item.name, item.algorithm)
            cells = _pair_cells(pair) if pair else (NONE,) * (1 + len(PAIR_COLUMNS))
            rows.append((*names, percent(item.mean), *cells, *_control_cells(aggregate, item)))
    note = (
        "Differences use the seeds that both have finished. p values as above; p (Holm) is "
        "corrected for all rows of this table."
    )
    repeated = [
        f"{display_name(item.name)} is {display_name(item.repeats)} by construction (the same "
        "rollouts and examples, and the same wins in every round), so it is counted once, under "
        "that name."
        for item in aggregate.variants
        if item.repeats
    ]
    note = " ".join([note, *repeated])
    return StudyTable("Variants: methods with other options", head, rows, note)


def _control_columns(aggregate: Aggregate) -> tuple[str, ...]:
    control = aggregate.control
    return (
        (
            f"minus {display_name(control.name)}, points [over tasks and seeds]",
            f"p, against {display_name(control.name)}",
            "p over seeds",
        )
        if control
        else ()
    )


def _control_cells(aggregate: Aggregate, item: MethodAggregate) -> tuple[str, ...]:
    """A variant minus the control, with uncorrected p values."""
    if aggregate.control is None:
        return ()
    pair = aggregate.pair(item.name, aggregate.control.name)
    if pair is None:
        return (NONE,) * 3
    sign = 1 if pair.first == item.name else -1
    low, high = sorted(sign * end for end in pair.over_both.interval)
    return (
        f"{points(sign * pair.over_tasks.mean)} [{points(low)}, {points(high)}]",
        f"{pair.p_value:.4f}",
        _seed_cell(pair.over_seeds),
    )


def _training_data(aggregate: Aggregate) -> StudyTable:
    head: tuple[str, ...] = (
        "method",
        "training tasks without a solution",
        "examples",
        "passes over the examples",
        "pairs",
        "actions of the student’s rollouts",
        "actions of the prefix",
        "of these, beneficial",
        "neutral",
        "states that need recovery",
        "recovered",
    )
    has_acts = any("acts" in item.selected for item in aggregate.methods if item.selected)
    if has_acts:
        head = (*head, "rollouts with an advantage", "groups with wins and losses")
    rows = []
    for item in aggregate.methods:
        if counts := item.selected:
            cells = (
                *(counts.get(name) for name in ("tasks.unsolved", "examples")),
                item.passes,
                counts.get("pairs"),
                *(item.trained_steps or (None,) * 4),
                *(counts.get(name) for name in ("states.recovery", "states.recovered")),
                *(counts.get(name) for name in (("acts", "groups.mixed") if has_acts else ())),
            )
            rows.append((display_name(item.name), *map(_mean_count, cells)))
    note = (
        "A solution of a task is a win of the expert or the student, from the task’s start or from "
        "a state of another trajectory. NAT and SFT-ALL use every expert trajectory instead. Only "
        "trained actions are counted. The prefix is the part of a path before the student’s "
        "rollout branches from it: the expert’s actions, or with `branch_from = student` those of "
        "an earlier failure of the student. Unless a method or variant has its own number of "
        "updates, these are equal, so fewer examples mean more passes over them."
    )
    return StudyTable("Training data of the last round, mean over seeds", head, rows, note)


def _mean_count(mean: float | None) -> str:
    return NONE if mean is None else f"{mean:,.1f}"


def _label_noise(aggregate: Aggregate) -> StudyTable:
    head = (
        "method",
        "rollouts per state",
        "solvable if",
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
        for item in aggregate.methods
        if item.label_noise
        for n in item.noise_sizes(NOISE_ROLLOUTS)
        for rule in rules
        if n > 1 or rule == "any"  # one rollout is its own majority
    ]
    note = (
        "A label is false if it differs from that of the majority of all rollouts from the state. "
        "A segment is the expert’s actions between two states. Most segments are truly neutral, so "
        "a few false labels are a large share of the segments labeled beneficial or harmful."
    )
    return StudyTable("Label noise", head, rows, note)


def _noise_row(item: MethodAggregate, n: int, rule: LabelRule) -> Sequence[str]:
    counts = [state.rollouts for noise in item.label_noise for state in noise.states]
    return (
        display_name(item.name),
        str(n),
        rule if n > 1 else "it wins",
        *map(percent, item.false_rates(n, rule)),
        str(len(counts)),
        number(sum(counts)),
    )


def _difficulty(aggregate: Aggregate) -> StudyTable:
    levels = [level for level in ("easy", "medium", "hard") if level in aggregate.tasks]
    head = (
        "method",
        *(f"{level} ({aggregate.tasks[level]})" for level in levels),
        "newly solved, by seed",
    )
    rows: list[Sequence[str]] = [
        (
            display_name(item.name),
            *(f"{item.solved.get(level, 0.0):.1f}" for level in levels),
            ", ".join(map(number, item.newly_solved)),
        )
        for item in aggregate.methods
        if item.known
    ]
    rows.append(
        (
            "never solved by any method",
            *(str(aggregate.never_solved.get(level, 0)) for level in levels),
            "",
        )
    )
    note = (
        "Easy tasks are won in more than two thirds of the evaluations of the expert and of "
        "behavior cloning, over all seeds; hard tasks in less than a third. Newly solved: won by "
        "neither of the two with the same seed."
    )
    title = "Test tasks solved after the last round, mean over seeds"
    return StudyTable(title, head, rows, note)


def _behaviors(aggregate: Aggregate) -> StudyTable:
    names = aggregate.behavior_names
    rows = [
        (
            display_name(item.name),
            str(round),
            part,
            *(_mean_behavior(item, round, part, name) for name in names),
        )
        for item in aggregate.methods
        for round, uses in item.behaviors.items()
        if uses and uses[0] and not (item.is_variant and round < max(item.behaviors))
        for part in ("won", "lost")
    ]
    return StudyTable(
        "Agent behavior: actions per test episode, mean over seeds",
        ("method", "round", "episodes", *names),
        rows,
        "Variants are shown after their last round." if aggregate.variants else "",
    )


def _mean_behavior(item: MethodAggregate, round: int, part: str, name: str) -> str:
    mean = item.mean_behavior(round, part, name)
    return NONE if mean is None else f"{mean:.2f}"


def _costs(aggregate: Aggregate) -> StudyTable:
    exploring = (f"{name.replace('_', ' ')}, exploring" for name in EXPLORATION_COSTS)
    head = ("method", *exploring, "updates", "processed tokens, training", "minutes in total")
    rows = [
        (
            display_name(item.name),
            *(number(getattr(item.exploration, name, None)) for name in EXPLORATION_COSTS),
            number(item.cost.updates if item.cost else None),
            number(item.cost.processed_tokens if item.cost else None),
            minutes(item.cost.seconds if item.cost else None),
        )
        for item in aggregate.methods
    ]
    note = (
        "Finished trials only. The expert’s rollouts are those of all experts together; a method "
        "that uses some of them uses a part of these. Minutes are wall-clock time, on machines "
        "that may have run other work."
    )
    return StudyTable("Cost, mean over seeds", head, rows, note)
