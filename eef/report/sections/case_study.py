"""Storyboard: a story as HTML: the expert's steps coloured by segment, the states between, and the examples' masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from eef.analysis.case_study import Story
from eef.chat import parse_completion
from eef.envs.registry import env_spec
from eef.methods.labels import OutcomeGrid, Segment
from eef.report.formatting import count_of, display_name
from eef.report.html import Html, join, tag
from eef.selection import TrainingExample
from eef.task import env_of
from eef.trajectory import PathStep, Step, Trajectory

SHOWN = 150  # characters of an observation before it is folded
SIGNS = {"beneficial": "▲", "harmful": "▼", "neutral": "=", "unknown": "?"}
MEANINGS = {
    "beneficial": "beneficial: the student loses from the state before and wins from the one after",
    "harmful": "harmful: the student wins from the state before and loses from the one after",
    "neutral": "neutral: playing on from the state after ends as it did from the one before",
    "unknown": "unknown: one of the states around was not measured",
}
REASONS = {
    "context": "context",
    "student-win": "student’s own",
    "expert-win": "expert’s win",
    "beneficial": "expert, beneficial",
    "neutral": "expert, neutral",
    "harmful": "expert, harmful",
    "unknown": "expert, not measured",
}


def draw_story(story: Story) -> Html:
    """The trajectory with its grid, then every example made from it."""
    return join(
        [
            tag("p", _introduce(story), class_="lead"),
            tag("ol", *_path(story), class_="path"),
            tag("details", tag("summary", "What the signs mean"), _key(), class_="fold"),
            tag("h3", "What it is trained on"),
            *([_example(story, example) for example in story.examples] or [tag("p", NO_EXAMPLE)]),
        ]
    )


def _key() -> Html:
    signs = [
        tag("li", tag("span", sign, class_=f"sign {label}"), MEANINGS[label])
        for label, sign in SIGNS.items()
    ]
    return tag("ul", *signs, class_="signs")


NO_EXAMPLE = (
    "No training example came of this trajectory in this round: no win leads through a state of it, or the student "
    "won from the task’s start by itself."
)


def _introduce(story: Story) -> str:
    expert = story.expert
    ending = "ran out of steps" if expert.status == "truncated" else "ended the episode"
    told = {segment.label for segment in story.grid.segments()} & {"beneficial", "harmful"}
    failures = (
        "1 failed trajectory" if story.failures == 1 else f"{story.failures} failed trajectories"
    )
    choice = "this one tells most" if told else "none tells a helpful action from a harmful one"
    return (
        f"Task {expert.task}, as the expert “{expert.author.name}” played it: it {ending} with "
        f"reward {expert.reward or 0:.2f} and did not win. In round {story.round} {display_name(story.method)} let the "
        f"student play on from {count_of(len(story.grid.states), 'state')} of it. Of the expert’s {failures} {choice}."
    )


def _path(story: Story) -> Iterator[Html]:
    """States and steps in order; the steps of a segment share its colour and sign."""
    parts = env_spec(env_of(story.expert.task)).split_observation
    seen = ""
    for t, step in enumerate(story.expert.steps):
        if t in story.grid.states:
            yield _state(story, story.grid.states.index(t))
        yield _step(t, step, story.grid, _news(step.observation, seen, parts))
        seen = step.observation
    last = story.expert.final_observation
    ending = _fold(last, _news(last, seen, parts))
    reward = f"Reward {story.expert.reward or 0:.2f}: not won"
    yield tag("li", tag("p", tag("strong", reward)), ending, class_="state last")


def _state(story: Story, index: int) -> Html:
    """A state: from how many rollouts the student won, and how each of them went."""
    grid = story.grid
    won, names, solvable = grid.wins[index], grid.rollouts[index], grid.solvable[index]
    kind, sign = {True: ("won", "●"), False: ("lost", "○"), None: ("open", "?")}[solvable]
    words = f"student won {won} of {count_of(len(names), 'rollout')}" if names else "not measured"
    needs = grid.states[index] in grid.recovery_states()
    line = [
        tag("span", sign, class_="sign", aria_hidden="true"),
        tag("strong", f"State {grid.states[index]}"),
        f" – {words}",
        *([" ", tag("span", "needs recovery", class_="badge")] if needs else []),
    ]
    rollouts = [_rollout(story.trajectories[name]) for name in names]
    played = tag("details", tag("summary", *line), tag("ul", *rollouts), class_="played")
    content = played if rollouts else tag("p", *line)
    return tag("li", content, class_=f"state {kind}")


def _rollout(rollout: Trajectory) -> Html:
    end = "won" if rollout.success else f"reward {rollout.reward or 0:.2f}"
    actions = " → ".join(step.action or "(no action)" for step in rollout.steps)
    return tag(
        "li",
        tag("strong", end),
        f" in {count_of(len(rollout.steps), 'step')}: ",
        tag("code", actions),
    )


def _step(t: int, step: Step, grid: OutcomeGrid, news: str) -> Html:
    segment = grid.segment_at(t)
    label = segment.label if segment else "outside"
    mark = _mark(t, segment) if segment else _plain_mark(t, grid)
    return tag(
        "li",
        tag("div", *mark, class_="mark"),
        tag("div", *_turn(step, news), class_="turn"),
        class_=f"step {label}",
    )


def _mark(t: int, segment: Segment) -> list[Html]:
    """The step's number with the sign of its segment; the label in words where a segment begins."""
    sign = tag("span", SIGNS[segment.label], class_="sign", title=MEANINGS[segment.label])
    word = tag("span", segment.label, class_="word") if segment.start == t else Html("")
    return [tag("span", t, class_="t"), sign, word]


def _plain_mark(t: int, grid: OutcomeGrid) -> list[Html]:
    """The number of a step behind the last state, about which nothing was measured."""
    return [
        tag("span", t, class_="t"),
        tag("span", "not measured") if t == grid.states[-1] else Html(""),
    ]


def _turn(step: Step, news: str) -> list[Html]:
    """What was seen, thought and done."""
    thought, _ = parse_completion(step.completion)
    return [
        _fold(step.observation, news),
        tag("p", thought, class_="thought") if thought else Html(""),
        tag("p", tag("code", step.action or "(no action)"), class_="action"),
    ]


def _fold(observation: str, news: str) -> Html:
    """The new parts of an observation, shortened; the full text unfolds."""
    short = news if len(news) <= SHOWN else news[:SHOWN].rsplit(" ", 1)[0] + " …"
    if short == observation:
        return tag("p", short, class_="observation")
    return tag(
        "details",
        tag("summary", short or "(the same page)"),
        tag("p", observation),
        class_="observation",
    )


def _news(observation: str, before: str, parts: Callable[[str], Sequence[str]]) -> str:
    """The parts of an observation that the previous one did not have."""
    known = set(parts(before))
    return " · ".join(part for part in parts(observation) if part not in known)


def _example(story: Story, example: TrainingExample) -> Html:
    """An example as a list of actions with its loss mask."""
    path = story.trajectories.path(example.trajectory)
    steps = [_masked(t, item, example) for t, item in enumerate(path)]
    trained = sum(weight > 0 for weight in example.weights)
    place = f"recovery state {example.state}" if example.state else "the task’s start"
    rest = "." if trained == len(path) else "; the others are seen as context, with weight 0."
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
    """The ids of the rollouts behind an example, as they stand in the store."""
    names = tag("p", tag("code", " · ".join(example.evidence)))
    head = tag("summary", f"{count_of(len(example.evidence), 'rollout')} behind it")
    return tag("details", head, names, class_="proof")


def _masked(t: int, item: PathStep, example: TrainingExample) -> Html:
    weight, reason = example.weights[t], example.reasons[t]
    who = "expert" if item.author.role == "expert" else "student"
    kind = f"trained {who}" if weight > 0 else "context"
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
        class_=kind,
    )
