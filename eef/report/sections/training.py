"""Efforts: the sections on training: what was explored, what was selected from it, what all of it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eef.analysis.results import MethodResult, Results, RoundResult
from eef.pipeline.ledger import Cost
from eef.pipeline.stages import EXPERT
from eef.report.components import figure, fold, method_cell, note, section, table
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
)
TROUBLES: Parts = (
    ("Rollouts that broke", "errors"),
    ("of these from a state that did not come back", "mismatches"),
    ("Worker restarts", "worker_restarts"),
)
TRAINING = ("updates", "trained_tokens", "processed_tokens")
SEGMENTS: Parts = tuple((label, f"{SIGNS[label]} {label}") for label in MEANINGS)


def draw_exploration(results: Results) -> Html:
    """What the rollouts brought, round by round."""
    rounds = [
        (method, item)
        for method in results.round_methods
        for item in method.rounds
        if item.explored
    ]
    if not rounds:
        return Html("")
    head = (
        "Method",
        "Round",
        "Rollouts",
        "Won %",
        "From inside a failure",
        "Won % there",
        "Training tasks ever won",
        "Examples",
        "Need recovery",
        "Recovered",
    )
    expert = results[EXPERT].rounds
    known = expert[0].train_tasks_won if expert else None
    return section(
        "What was explored",
        table(
            head,
            [_exploration_row(results, method, item) for method, item in rounds],
            name="Exploration",
        ),
        note(
            f"The expert won {number(known)} of the {results.fingerprint['train_tasks']} training tasks; “ever won” "
            "adds the student’s wins up to the round. A state needs recovery when the student wins from the state "
            "before it and not from it; it is recovered when a solution that leads on from there was found."
            + _troubles(results)
        ),
    )


def _troubles(results: Results) -> str:
    """What went wrong while rollouts were played, as a sentence; "" for nothing."""
    explored = [
        item.explored for method in results.methods for item in method.rounds if item.explored
    ]
    counts = {name: sum(each.get(key, 0) for each in explored) for name, key in TROUBLES}
    told = [f"{name}: {number(count)}" for name, count in counts.items() if count]
    return f" {'; '.join(told)}." if told else ""


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


def draw_selection(results: Results) -> Html:
    """Stacked bars: trained steps by reason for all, segments by label for those that measure them."""
    rounds = [
        (method, item) for method in results.methods for item in method.rounds if item.selection
    ]
    if not rounds:
        return Html("")
    measured = [(method, item) for method, item in rounds if _segments(item)]
    parts = [
        figure(
            "Trained steps by the reason for training them.",
            *_stacks(rounds, "steps.", STEP_REASONS),
        )
    ]
    if measured:
        parts.append(
            figure(
                "Segments of the experts’ failed trajectories, by what the student’s rollouts from the states around them "
                "tell. Actions of harmful segments may be seen in training and are never trained.",
                *_stacks(measured, "segments.", SEGMENTS),
            )
        )
    return section("What was trained on", *parts)


def _segments(item: RoundResult) -> bool:
    return any(name.startswith("segments.") for name in item.selection or {})


def _stacks(rounds: Rounds, prefix: str, parts: Parts) -> list[Html]:
    """Key, bars on one scale, and the same as a table; of the parts those that occur."""
    counts = [
        {part: (item.selection or {}).get(prefix + part, 0) for part, _ in parts}
        for _, item in rounds
    ]
    there = [(part, name) for part, name in parts if any(count[part] for count in counts)]
    longest = max(sum(count.values()) for count in counts) or 1
    labels = [_round_label(method, item) for method, item in rounds]
    key = [tag("li", tag("span", class_=f"chip fill-{part}"), name) for part, name in there]
    bars = [
        _stack(label, count, there, longest) for label, count in zip(labels, counts, strict=True)
    ]
    rows = [
        [label, *(number(count[part]) for part, _ in there)]
        for label, count in zip(labels, counts, strict=True)
    ]
    return [
        tag("ul", *key, class_="key"),
        tag("div", *bars, class_="stacks"),
        fold(
            "In numbers",
            table(("Round", *(name for _, name in there)), rows, name="The bars in numbers"),
        ),
    ]


def _stack(label: str, count: Mapping[str, int], parts: Parts, longest: int) -> Html:
    """A bar; its pieces show their numbers where there is room."""
    total = sum(count.values())
    pieces = [
        tag(
            "span",
            tag("span", number(count[part])),
            class_=f"piece fill-{part}",
            style=f"flex-grow:{count[part]}",
            title=f"{name}: {count[part]}",
        )
        for part, name in parts
        if count[part]
    ]
    said = ", ".join(f"{name} {count[part]}" for part, name in parts)
    bar = tag(
        "span",
        *pieces,
        class_="stack",
        style=f"width:calc((100% - 4.5em) * {total / longest:.4f})",
        role="img",
        aria_label=said,
    )
    end = tag("span", number(total), class_="stack-total")
    return join(
        [tag("span", label, class_="stack-label"), tag("span", bar, end, class_="stack-track")]
    )


def draw_costs(results: Results) -> Html:
    """What each method spent; behaviour cloning, from which the others start, stands by itself."""
    methods = [method for method in results.methods if method.last]
    if not methods:
        return Html("")
    head = (
        "Method",
        "Rollouts",
        "Steps",
        "Replayed",
        "Prompt tokens",
        "cached",
        "Generated",
        "Updates",
        "Trained tokens",
        "Processed",
        "Explore, min",
        "Train, min",
        "Evaluate, min",
    )
    return section(
        "What it cost",
        table(head, [_cost_row(method, results) for method in methods], name="Costs"),
        note(
            "Rollouts to generated tokens are those of exploration (the expert: of collecting), up to the round of the "
            "result. Replayed steps lead to a state that is played on from; cached prompt tokens were not computed "
            "again. Trained tokens carry loss, processed ones are all that went through the model in training."
        ),
    )


def _cost_row(method: MethodResult, results: Results) -> list[Content]:
    explore = method.cost_of("explore", "collect") or Cost()
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
