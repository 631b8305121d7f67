"""The case study: the expert's steps by segment, the states between them, and the loss masks."""

from __future__ import annotations

from collections.abc import Iterator

from eef.analysis.case_study import CaseStudy
from eef.envs.registry import report_spec
from eef.methods.labels import OutcomeGrid, Segment
from eef.react import thought_of
from eef.report.components import Section, in_viewer, section
from eef.report.formatting import count_of, display_name
from eef.report.html import Html, tag
from eef.selection import TrainingExample
from eef.task import env_of
from eef.trajectory import PathStep, Step, Trajectory

SHOWN = 150
"""Characters of an observation that are shown before it is folded."""

SIGNS = {"beneficial": "▲", "harmful": "▼", "neutral": "=", "unknown": "?"}
MEANINGS = {
    "beneficial": "beneficial: the student loses from the state before and wins from the one after",
    "harmful": "harmful: the student wins from the state before and loses from the one after",
    "neutral": "neutral: the student wins from both states, or loses from both",
    "unknown": "unknown: the state before or after was not measured",
}
REASONS = {
    "context": "context",
    "student-win": "student’s own",
    "expert-win": "expert’s win",
    "beneficial": "expert, beneficial",
    "neutral": "expert, neutral",
    "harmful": "expert, harmful",
    "unknown": "expert, not measured",
    "not-critical": "not named by the judge",
}


def draw_case_study(case: CaseStudy) -> Section:
    """The trajectory with its outcome grid, then every example made from it."""
    return section(
        "Case study: an explored failure of the expert",
        tag("p", _introduce(case), " ", in_viewer("task", case.expert.task), class_="lead"),
        tag("ol", *_path(case), class_="path"),
        tag("details", tag("summary", "Labels"), _key(), class_="fold"),
        tag("h3", "Training examples made from it"),
        *([_example(case, example) for example in case.examples] or [tag("p", NO_EXAMPLE)]),
    )


def _key() -> Html:
    signs = [
        tag("li", tag("span", sign, class_=f"sign {label}"), MEANINGS[label])
        for label, sign in SIGNS.items()
    ]
    return tag("ul", *signs, class_="signs")


NO_EXAMPLE = (
    "No training example was made from this trajectory in this round: no win passes through one of "
    "its states, or the student won from the task’s start."
)


def _introduce(case: CaseStudy) -> str:
    expert = case.expert
    ending = "ran out of steps" if expert.status == "truncated" else "ended the episode"
    labels = {segment.label for segment in case.grid.segments()} & {"beneficial", "harmful"}
    failures = (
        "1 failed trajectory" if case.failures == 1 else f"{case.failures} failed trajectories"
    )
    choice = (
        "this one is the most instructive"
        if labels
        else "none has a beneficial or a harmful segment"
    )
    return (
        f"The expert “{expert.author.name}” on task {expert.task} {ending} with reward "
        f"{expert.reward or 0:.2f} and did not win. In round {case.round}, the student of "
        f"{display_name(case.method)} branched from {count_of(len(case.grid.states), 'state')} of "
        f"this trajectory. Of the expert’s {failures}, {choice}."
    )


def _path(case: CaseStudy) -> Iterator[Html]:
    """States and steps in order; the steps of a segment share its color and sign."""
    spec = report_spec(env_of(case.expert.task))
    before = ""
    for t, step in enumerate(case.expert.steps):
        if t in case.grid.states:
            yield _state(case, case.grid.states.index(t))
        yield _step(t, step, case.grid, spec.new_part(step.observation, before))
        before = step.observation
    last = case.expert.final_observation
    ending = _fold(last, spec.new_part(last, before))
    reward = f"Reward {case.expert.reward or 0:.2f}: not won"
    yield tag("li", tag("p", tag("strong", reward)), ending, class_="state last")


def _state(case: CaseStudy, index: int) -> Html:
    """A state, the number of rollouts from it that won, and the actions of each of them."""
    grid = case.grid
    won, names, solvable = grid.wins[index], grid.rollouts[index], grid.solvable[index]
    outcome, sign = {True: ("won", "●"), False: ("lost", "○"), None: ("open", "?")}[solvable]
    words = f"student won {won} of {count_of(len(names), 'rollout')}" if names else "not measured"
    needs = grid.states[index] in grid.recovery_states()
    line = [
        tag("span", sign, class_="sign", aria_hidden="true"),
        tag("strong", f"State {grid.states[index]}"),
        f" – {words}",
        *([" ", tag("span", "needs recovery", class_="badge")] if needs else []),
    ]
    rollouts = [_rollout(case.trajectories[name]) for name in names]
    played = tag("details", tag("summary", *line), tag("ul", *rollouts), class_="played")
    content = played if rollouts else tag("p", *line)
    return tag("li", content, class_=f"state {outcome}")


def _rollout(rollout: Trajectory) -> Html:
    end = "won" if rollout.success else f"reward {rollout.reward or 0:.2f}"
    actions = " → ".join(step.action or "(no action)" for step in rollout.steps)
    return tag(
        "li",
        tag("strong", end),
        f" in {count_of(len(rollout.steps), 'step')}: ",
        in_viewer("trajectory", rollout.id),
        " ",
        tag("code", actions),
    )


def _step(t: int, step: Step, grid: OutcomeGrid, new: str) -> Html:
    segment = grid.segment_at(t)
    label = segment.label if segment else "outside"
    mark = _mark(t, segment, grid) if segment else _plain_mark(t, grid)
    return tag(
        "li",
        tag("div", *mark, class_="mark"),
        tag("div", *_turn(step, new), class_="turn"),
        class_=f"step {label}",
    )


def _mark(t: int, segment: Segment, grid: OutcomeGrid) -> list[Html]:
    """The step's number with the sign of its segment.

    The first step of a segment also shows the label, and the number of rollouts that it is based
    on: those from the state before and from the state after the segment.
    """
    sign = tag("span", SIGNS[segment.label], class_="sign", title=MEANINGS[segment.label])
    mark = [tag("span", t, class_="t"), sign]
    if segment.start == t:
        before, after = (len(_rollouts_at(grid, state)) for state in (segment.start, segment.end))
        basis = f"{before} + {after} rollouts"
        title = "rollouts from the state before and from the state after"
        mark.append(tag("span", segment.label, class_="word"))
        mark.append(tag("span", basis, class_="basis", title=title))
    return mark


def _rollouts_at(grid: OutcomeGrid, state: int) -> tuple[str, ...]:
    return grid.rollouts[grid.states.index(state)]


def _plain_mark(t: int, grid: OutcomeGrid) -> list[Html]:
    """The number of a step after the last state, which belongs to no segment."""
    return [
        tag("span", t, class_="t"),
        tag("span", "not measured") if t == grid.states[-1] else Html(""),
    ]


def _turn(step: Step, new: str) -> list[Html]:
    """The observation, the thought and the action of a step."""
    thought = thought_of(step.completion)
    return [
        _fold(step.observation, new),
        tag("p", thought, class_="thought") if thought else Html(""),
        tag("p", tag("code", step.action or "(no action)"), class_="action"),
    ]


def _fold(observation: str, new: str) -> Html:
    """The new part of an observation, shortened; the whole observation on demand."""
    short = new if len(new) <= SHOWN else new[:SHOWN].rsplit(" ", 1)[0] + " …"
    if short == observation:
        return tag("p", short, class_="observation")
    return tag(
        "details",
        tag("summary", short or "(the same page)"),
        tag("p", observation),
        class_="observation",
    )


def _example(case: CaseStudy, example: TrainingExample) -> Html:
    """A training example as a list of actions with its loss mask."""
    path = case.trajectories.path(example.trajectory)
    steps = [_masked(t, item, example) for t, item in enumerate(path)]
    trained = sum(weight > 0 for weight in example.weights)
    place = f"recovery state {example.state}" if example.state else "the task’s start"
    rest = "." if trained == len(path) else "; the others are context, with weight 0."
    head = [
        tag("strong", f"A solution for {place}."),
        f" {trained} of {len(path)} actions are trained{rest}",
    ]
    return tag(
        "figure",
        tag("figcaption", *head),
        tag("ol", *steps, class_="mask", start=0),
        _proof(example),
        class_="example",
    )


def _proof(example: TrainingExample) -> Html:
    """The ids of the rollouts that an example is based on."""
    names = tag("p", tag("code", " · ".join(example.evidence)))
    head = tag("summary", f"Evidence: {count_of(len(example.evidence), 'rollout')}")
    return tag("details", head, names, class_="proof")


def _masked(t: int, item: PathStep, example: TrainingExample) -> Html:
    weight, reason = example.weights[t], example.reasons[t]
    who = "expert" if item.author.role == "expert" else "student"
    use = f"trained {reason}" if weight > 0 else "context"  # the bars have the same colors
    return tag(
        "li",
        tag("span", t, class_="t"),
        tag("span", f"{weight:g}", class_="weight", title="loss weight"),
        tag(
            "span",
            f"context, {who}’s" if reason == "context" else REASONS.get(reason, reason),
            class_="reason",
        ),
        tag("code", item.step.action or "(no action)"),
        class_=use,
    )
