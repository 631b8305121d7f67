"""The sections on training: exploration, the selected training data, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eef.analysis.results import MethodResult, Results, RoundResult
from eef.pipeline.ledger import Cost
from eef.pipeline.stages import EXPERT
from eef.report.components import Section, figure, fold, method_cell, note, section, table
from eef.report.formatting import NONE, display_name, minutes, number, percent
from eef.report.html import Content, Html, join, tag
from eef.report.sections.case_study import MEANINGS, SIGNS

Rounds = Sequence[tuple[MethodResult, RoundResult]]
Parts = Sequence[tuple[str, str]]

STEP_REASONS: Parts = (
    ("student-win", "student’s own wins"),
    ("expert-win", "expert’s wins"),
    ("beneficial", "expert, beneficial"),
    ("neutral", "expert, neutral"),
    ("unknown", "expert, not measured"),
    ("critical", "expert, critical"),
    ("refined", "student’s turns after critiques"),
    ("student-failure", "student’s failures"),
    ("expert-failure", "expert’s failures"),
)
"""Reasons with a name of their own; all others are shown under theirs."""

FAILURES: Parts = (
    ("Failed rollouts", "errors"),
    ("of these, from a state that could not be restored", "mismatches"),
    ("Replayed observations that differ only in what the environment ignores", "tolerated_steps"),
    ("Worker restarts", "worker_restarts"),
)
TRAINING = ("updates", "trained_tokens", "processed_tokens")
SEGMENTS: Parts = tuple((label, f"{SIGNS[label]} {label}") for label in MEANINGS)


def draw_exploration(results: Results) -> Section | None:
    """The rollouts of each round and their outcomes."""
    rounds = [
        (method, item)
        for method in results.round_methods
        for item in method.rounds
        if item.explored
    ]
    if not rounds:
        return None
    head = (
        "Method",
        "Round",
        "Rollouts",
        "Won %",
        "Branched from a failure",
        "Won % of these",
        "Training tasks won so far",
        "Examples",
        "Need recovery",
        "Recovered",
    )
    expert = results[EXPERT].rounds
    known = expert[0].train_tasks_won if expert else None
    return section(
        "Exploration",
        table(
            head,
            [_exploration_row(results, method, item) for method, item in rounds],
            name="Exploration",
        ),
        note(
            f"The expert won {number(known)} of the {results.fingerprint['train_tasks']} training "
            "tasks; “won so far” adds the student’s wins up to the round. A state needs recovery "
            "if the student wins from the state before it but not from the state itself. It is "
            "recovered if a solution that continues from there was found." + _failures(results)
        ),
    )


def _failures(results: Results) -> str:
    """The counts of failed rollouts and restarts as a sentence; "" if there are none."""
    explored = [
        item.explored for method in results.methods for item in method.rounds if item.explored
    ]
    counts = {name: sum(each.get(key, 0) for each in explored) for name, key in FAILURES}
    words = [f"{name}: {number(count)}" for name, count in counts.items() if count]
    return f" {'; '.join(words)}." if words else ""


def _exploration_row(results: Results, method: MethodResult, item: RoundResult) -> list[Content]:
    explored, selection = item.explored or {}, item.selection or {}
    inside = explored["from_inside"]
    return [
        method_cell(method.name, results),
        str(item.round),
        number(explored["rollouts"]),
        _share(explored["wins"], explored["rollouts"]),
        number(inside),
        _share(explored["wins_from_inside"], inside),
        number(item.train_tasks_won),
        *(
            number(selection.get(name))
            for name in ("examples", "states.recovery", "states.recovered")
        ),
    ]


def draw_selection(results: Results) -> Section | None:
    """Stacked bars: trained steps by reason, and segments by label if they are measured."""
    rounds = [
        (method, item) for method in results.methods for item in method.rounds if item.selection
    ]
    if not rounds:
        return None
    measured = [(method, item) for method, item in rounds if _segments(item)]
    parts = [
        figure(
            "Trained steps by reason.",
            *_stacks(rounds, "steps.", _step_reasons(rounds)),
        )
    ]
    if measured:
        parts.append(
            figure(
                "Segments of the experts’ failed trajectories, labeled by the student’s rollouts "
                "from the states before and after them. Actions of harmful segments may be context "
                "in training, but are never trained.",
                *_stacks(measured, "segments.", SEGMENTS),
            )
        )
    return section("Training data", *parts)


def _step_reasons(rounds: Rounds) -> Parts:
    known = {name for name, _ in STEP_REASONS}
    counted = {
        name.removeprefix("steps.")
        for _, item in rounds
        for name in item.selection or {}
        if name.startswith("steps.")
    }
    return (*STEP_REASONS, *((name, name) for name in sorted(counted - known)))


def _segments(item: RoundResult) -> bool:
    return any(name.startswith("segments.") for name in item.selection or {})


def _stacks(rounds: Rounds, prefix: str, parts: Parts) -> list[Html]:
    """A key, bars on one scale, and the same as a table, for the parts that occur."""
    counts = [
        {part: (item.selection or {}).get(prefix + part, 0) for part, _ in parts}
        for _, item in rounds
    ]
    found = [(part, name) for part, name in parts if any(count[part] for count in counts)]
    longest = max(sum(count.values()) for count in counts) or 1
    labels = [_round_label(method, item) for method, item in rounds]
    key = [tag("li", tag("span", class_=f"chip fill-{part}"), name) for part, name in found]
    bars = [
        _stack(label, count, found, longest) for label, count in zip(labels, counts, strict=True)
    ]
    rows = [
        [label, *(number(count[part]) for part, _ in found)]
        for label, count in zip(labels, counts, strict=True)
    ]
    return [
        tag("ul", *key, class_="key"),
        tag("div", *bars, class_="stacks"),
        fold(
            "As a table",
            table(("Round", *(name for _, name in found)), rows, name="The bars as a table"),
        ),
    ]


def _stack(label: str, count: Mapping[str, int], parts: Parts, longest: int) -> Html:
    """A bar; its parts show their counts if there is room."""
    total = sum(count.values())
    drawn = [
        tag(
            "span",
            tag("span", number(count[part])),
            class_=f"part fill-{part}",
            style=f"flex-grow:{count[part]}",
            title=f"{name}: {count[part]}",
        )
        for part, name in parts
        if count[part]
    ]
    words = ", ".join(f"{name} {count[part]}" for part, name in parts)
    bar = tag(
        "span",
        *drawn,
        class_="stack",
        style=f"width:calc((100% - 4.5em) * {total / longest:.4f})",
        role="img",
        aria_label=words,
    )
    end = tag("span", number(total), class_="stack-total")
    return join(
        [tag("span", label, class_="stack-label"), tag("span", bar, end, class_="stack-track")]
    )


def draw_costs(results: Results) -> Section | None:
    """The cost of each method itself; behavior cloning, their common start, has its own row."""
    methods = [method for method in results.methods if method.last]
    if not methods:
        return None
    drifted = {method.name: _exploration_cost(method).drifted_turns for method in methods}
    head = (
        "Method",
        "Rollouts",
        "Steps",
        "Replayed",
        "Prompt tokens",
        "of these, cached",
        "Generated",
        "Updates",
        "Trained tokens",
        "Processed",
        "Explore, min",
        "Train, min",
        "Evaluate, min",
    )
    return section(
        "Cost",
        table(head, [_cost_row(method, results) for method in methods], name="Cost"),
        note(
            "The columns from rollouts to generated tokens count exploration up to the round of "
            "the result (for the expert, collection). Replayed steps restore a state to branch "
            "from. Cached prompt tokens were not recomputed. Trained tokens carry loss; processed "
            f"tokens are all that passed through the model in training. {_drift(drifted)}"
        ),
    )


def _exploration_cost(method: MethodResult) -> Cost:
    return method.cost_of("explore", "collect") or Cost()


def _drift(turns: Mapping[str, int]) -> str:
    """How many turns drifted, by method."""
    parts = [f"{display_name(name)} {count:,}" for name, count in turns.items() if count]
    if not parts:
        return "No turn drifted: tokenizing the text of any turn gives the sampled token ids."
    return (
        "Drifted turns (tokenizing their text does not give the sampled token ids; the sampled ids "
        f"are kept): {', '.join(parts)}."
    )


def _cost_row(method: MethodResult, results: Results) -> list[Content]:
    explore = _exploration_cost(method)
    train, evaluate = method.cost_of("train"), method.cost_of("evaluate")
    return [
        method_cell(method.name, results),
        *(
            number(count)
            for count in (
                explore.rollouts,
                explore.env_steps,
                explore.replayed_steps,
                explore.prompt_tokens,
                explore.cached_tokens,
                explore.generated_tokens,
            )
        ),
        *(number(getattr(train, name) if train else None) for name in TRAINING),
        *(minutes(cost.seconds if cost else None) for cost in (explore, train, evaluate)),
    ]


def _share(part: int, of: int) -> str:
    return percent(part / of) if of else NONE


def _round_label(method: MethodResult, item: RoundResult) -> str:
    return (
        f"{display_name(method.name)}, round {item.round}"
        if item.round
        else display_name(method.name)
    )
