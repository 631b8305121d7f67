"""Paths: a trajectory or a training example, printed step by step, or as the tokens that are learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from eef.chat import parse_completion
from eef.cli.console import data, tell
from eef.cli.lookup import Found, examples_of
from eef.errors import ConfigError
from eef.methods.eef import Eef
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import EXPERT, Stage
from eef.report.formatting import reward
from eef.selection import TrainingExample
from eef.trajectory import PathStep

_SHORT = 240  # characters of an observation, unless all is asked for
_ENDED = {True: "won", False: "lost", None: "not known"}
_COLOURS = {"beneficial": "green", "harmful": "red", "expert-win": "green", "student-win": "green"}


def show_one(
    run: RunDirectory, found: Sequence[Found], name: str, *, mask: bool, full: bool
) -> None:
    if len(found) > 1:
        places = ", ".join(f"`{item.place}`" for item in found)
        raise ConfigError(
            f"{name!r} stands for {len(found)} things in this run", hint=f"add one of: {places}"
        )
    item = found[0]
    if mask:
        _show_mask(run, item, name)
        return
    console = data()
    console.print(_heading(item), soft_wrap=True)
    path = item.place.trajectories.path(item.trajectory.id)
    for t, (step, note) in enumerate(zip(path, _notes(run, item, path), strict=True)):
        console.print(_step(t, step, note, full=full), soft_wrap=True)
    ended = Text("\nat the end  ", style="bold")
    console.print(
        ended.append(_short(item.trajectory.final_observation, full), style="dim not bold"),
        soft_wrap=True,
    )


def _heading(item: Found) -> Text:
    trajectory = item.trajectory
    verdict = "won" if trajectory.success else "lost"
    text = Text(f"{trajectory.id}\n", style="bold")
    start = (
        f"{trajectory.start}, after {trajectory.first} steps of it"
        if trajectory.start
        else "the task's start"
    )
    lines = [
        f"task      {trajectory.task}",
        f"author    {trajectory.author}, round {trajectory.round}",
        f"start     {start}",
        f"ended     {trajectory.status}, {verdict}, reward {reward(trajectory.reward)}",
    ]
    if trajectory.error:
        lines.append(f"error     {trajectory.error}")
    if trajectory.source:
        lines.append(
            f"source    {trajectory.source}" + ("" if trajectory.replayable else " (text only)")
        )
    if item.example is not None:
        lines += [
            f"example   {item.example.id}: trained from state {item.example.state} on",
            *(f"evidence  {line}" for line in _evidence(item, item.example)),
        ]
    return text.append("\n".join(lines), style="not bold")


def _evidence(item: Found, example: TrainingExample) -> Iterator[str]:
    """The rollouts that prove an example's labels: where each began, and how it ended."""
    for name in example.evidence:
        rollout = item.place.trajectories[name]
        start = (
            f"state {rollout.start.t} of {rollout.start.trajectory}"
            if rollout.start
            else "the task's start"
        )
        yield f"{name}: {rollout.author} {'won' if rollout.success else 'lost'} from {start}"


def _notes(run: RunDirectory, item: Found, path: Sequence[PathStep]) -> list[str]:
    """A word on each step: an example's weight and reason; else reward, and for an expert's step its label."""
    example = item.example
    if example is not None:
        labels = _labels(run, item, path)
        told = zip(example.weights, example.reasons, strict=True)
        return [
            f"weight {weight:g}, {reason}{labels.get(t, ('', ''))[1]}"
            for t, (weight, reason) in enumerate(told)
        ]
    labels = _labels(run, item, path)
    return [
        f"reward {step.step.reward:g}" + "".join(labels.get(t, ())) for t, step in enumerate(path)
    ]


def _labels(run: RunDirectory, item: Found, path: Sequence[PathStep]) -> dict[int, tuple[str, str]]:
    """(label, what proves it) by step of the expert's part of a path, as the `eef` method of the run measured it: in an
    example's round, by a rollout's own round, for an expert's trajectory by the last round explored."""
    of_expert = (step.trajectory for step in path if step.author.role == "expert")
    expert = next((item.place.trajectories[name] for name in of_expert), None)
    name = (
        item.place.method if item.place.method != EXPERT else next(iter(_eef_methods(run)), EXPERT)
    )
    method = run.methods.get(name)
    rounds = [
        number
        for number in range(1, run.recipe.rounds + 1)
        if run.is_done(Stage(name, number, "explore"))
    ]
    if expert is None or not isinstance(method, Eef) or not rounds:
        return {}
    round = (item.place.round if item.example else item.trajectory.round) or rounds[-1]
    grid = method.measure(run.trajectories(name), expert, round)
    segments = {
        t: grid.segment_at(t) for t, step in enumerate(path) if step.trajectory == expert.id
    }
    won = {
        state: _ENDED[solvable] for state, solvable in zip(grid.states, grid.solvable, strict=True)
    }
    return {
        t: (
            f", {segment.label}",
            f"; in round {round} {won[segment.start]} from state {segment.start}, "
            f"{won[segment.end]} from state {segment.end}",
        )
        for t, segment in segments.items()
        if segment is not None
    }


def _eef_methods(run: RunDirectory) -> list[str]:
    return [name for name, method in run.methods.items() if isinstance(method, Eef)]


def _step(t: int, step: PathStep, note: str, *, full: bool) -> Text:
    thought, _ = parse_completion(step.step.completion)
    colour = next(
        (colour for word, colour in _COLOURS.items() if word in note and "weight 0" not in note), ""
    )
    text = Text(f"\n{t:>3}  {step.author}  ", style="bold").append(
        f"({note})\n", style=f"not bold {colour}"
    )
    for word, content, style in (
        ("sees", _short(step.step.observation, full), "dim"),
        ("thinks", thought, "italic"),
        ("does", step.step.action or "no action found", "cyan"),
    ):
        if content:
            text.append(f"     {word:<7}", style="not bold").append(
                f"{content}\n", style=f"not bold {style}"
            )
    text.rstrip()
    return text


def _short(observation: str, full: bool) -> str:
    """One line, cut where it is long; `full`: as it is."""
    if full:
        return observation
    line = " ".join(observation.split())
    return (
        line if len(line) <= _SHORT else f"{line[:_SHORT]} … ({len(line) - _SHORT} more characters)"
    )


def _show_mask(run: RunDirectory, item: Found, name: str) -> None:
    from eef.cli.token_view import color_by_weight
    from eef.models.loading import load_tokenizer
    from eef.renderer import Renderer, render_example

    if item.example is None:
        ids = [example.id for example in examples_of(run, item)]
        hint = (
            f"examples made of it: {', '.join(ids)}"
            if ids
            else "nothing was trained on this trajectory"
        )
        raise ConfigError(
            f"{name!r} is a trajectory; only a training example has a loss mask", hint=hint
        )
    tokenizer = load_tokenizer(run.recipe.model.name)
    renderer = Renderer(tokenizer, loss_on=run.recipe.chat.loss_on)
    rendered = render_example(
        item.example, item.place.trajectories, RunContext(run).env.prompt, renderer
    )
    shown, console = color_by_weight(rendered, tokenizer), data()
    console.print(shown if console.color_system else _bracketed(shown), soft_wrap=True)
    tell(f"{rendered.trained:,} of {len(rendered.ids):,} tokens are trained")


def _bracketed(mask: Text) -> Text:
    """A mask that is readable without colour: what is trained stands in brackets."""
    parts = [(mask.plain[span.start : span.end], span.style) for span in mask.spans]
    return Text("".join(part if style == "dim" else f"⟦{part}⟧" for part, style in parts))
