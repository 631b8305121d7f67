"""A trajectory or a training example as text: step by step, or as the tokens that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from eef.analysis.role_texts import RoleTexts, advice_heading, role_texts
from eef.cli.console import print_err, stdout_console
from eef.errors import ConfigError
from eef.methods.eef import Eef
from eef.note import Note
from eef.pipeline.run_directory import RunData, RunDirectory
from eef.pipeline.stages import EXPERT, Stage
from eef.react import thought_of
from eef.report.formatting import reward
from eef.selection import TrainingExample
from eef.trajectory import PathStep, Trajectory, TrajectorySet
from eef.utils.extras import require_package

_SHORT = 240  # characters of an observation, unless `full`
_OUTCOMES = {True: "won", False: "lost", None: "unknown"}
_COLORS = {"beneficial": "green", "harmful": "red", "expert-win": "green", "student-win": "green"}


@dataclass(frozen=True, slots=True)
class Item:
    """A trajectory, or a training example made from it, with the method it belongs to.

    `trajectories` hold the trajectory and those it refers to. `round` is that of the example.
    """

    method: str
    trajectories: TrajectorySet
    trajectory: Trajectory
    example: TrainingExample | None = None
    round: int | None = None


def show_item(data: RunData, item: Item, *, full: bool) -> None:
    """Print an item step by step; observations are shortened unless `full`."""
    console = stdout_console()
    console.print(_heading(item), soft_wrap=True)
    texts = _role_texts(data, item)
    for written in (*texts.in_prompt, *texts.about):
        line = _note(written, full=full, in_prompt=written in texts.in_prompt)
        console.print(line, soft_wrap=True)
    path = item.trajectories.path(item.trajectory.id)
    for t, (step, note) in enumerate(zip(path, _notes(data, item, path), strict=True)):
        console.print(_step(t, step, note, full=full), soft_wrap=True)
    final = Text("\nfinal observation  ", style="bold").append(
        _shorten(item.trajectory.final_observation, full), style="dim not bold"
    )
    console.print(final, soft_wrap=True)


def show_mask(run: RunDirectory, data: RunData, item: Item) -> None:
    """Print the tokens of a training example by loss weight. ConfigError for a mere trajectory."""
    if item.example is None:
        examples = ", ".join(example.id for example in _examples_of(data, item))
        raise ConfigError(
            f"{item.trajectory.id!r} is a trajectory; only a training example has a loss mask",
            hint=f"examples made from it: {examples or 'none'}",
        )
    require_package("torch", "rendering tokens")
    from eef.cli.token_view import color_by_weight
    from eef.pipeline.context import RunContext
    from eef.rendering import render_example

    context = RunContext(run)
    renderer = context.base_renderer()
    rendered = render_example(item.example, item.trajectories, context.prompt, renderer)
    text, console = color_by_weight(rendered, renderer.tokenizer), stdout_console()
    console.print(text if console.color_system else _bracketed(text), soft_wrap=True)
    print_err(f"{rendered.trained:,} of {len(rendered.ids):,} tokens are trained")


def _heading(item: Item) -> Text:
    trajectory = item.trajectory
    verdict = "won" if trajectory.success else "lost"
    start = (
        f"{trajectory.start}, after {trajectory.first} of its steps"
        if trajectory.start
        else "the task's start"
    )
    lines = [
        f"task      {trajectory.task}",
        f"author    {trajectory.author}, round {trajectory.round}",
        f"start     {start}",
        f"ended     {trajectory.status}, {verdict}, reward {reward(trajectory.reward)}",
    ]
    if trajectory.prompt_suffix:
        lines.append(f"prompt    … {' / '.join(trajectory.prompt_suffix.splitlines())}")
    if trajectory.error:
        lines.append(f"error     {trajectory.error}")
    if trajectory.source:
        unverified = "" if trajectory.replayable else " (unverified)"
        lines.append(f"source    {trajectory.source}{unverified}")
    if item.example is not None:
        lines.append(f"example   {item.example.id}, trained from state {item.example.state} on")
        lines += (f"evidence  {line}" for line in _evidence(item, item.example))
    return Text(f"{trajectory.id}\n", style="bold").append("\n".join(lines), style="not bold")


def _role_texts(data: RunData, item: Item) -> RoleTexts:
    """The texts of roles about a trajectory; about an expert's, those of all methods."""
    if item.method != EXPERT:
        return role_texts(item.trajectory, [item.trajectories.notes])
    return role_texts(item.trajectory, [data.trajectories(name).notes for name in data.methods])


def _note(note: Note, *, full: bool, in_prompt: bool) -> Text:
    """A note in one line: who wrote it, in which round, and why it was skipped if it was."""
    where = "in the prompt" if in_prompt else f"about {note.about}"
    text = Text(f"{note.role:<9} ", style="magenta")
    text.append(f"({note.author}, round {note.round}, {where}) ", style="dim")
    if note.problem:
        text.append(f"skipped: {note.problem}; ", style="red")
    return text.append(_shorten(note.text if full else " / ".join(note.text.splitlines()), full))


def _evidence(item: Item, example: TrainingExample) -> Iterator[str]:
    """The rollouts that an example's labels rest on: where each started and how it ended."""
    for name in example.evidence:
        rollout = item.trajectories[name]
        start = (
            f"state {rollout.start.t} of {rollout.start.trajectory}"
            if rollout.start
            else "the task's start"
        )
        yield f"{name}: {rollout.author} {'won' if rollout.success else 'lost'} from {start}"


def _notes(data: RunData, item: Item, path: Sequence[PathStep]) -> list[str]:
    """A note for each step: an example's weight and reason, or a trajectory's reward and label."""
    labels = _labels(data, item, path)
    if item.example is not None:
        trained = zip(item.example.weights, item.example.reasons, strict=True)
        return [
            f"weight {weight:g}, {reason}{labels.get(t, ('', ''))[1]}"
            for t, (weight, reason) in enumerate(trained)
        ]
    return [
        f"reward {step.step.reward:g}" + "".join(labels.get(t, ())) for t, step in enumerate(path)
    ]


def _labels(data: RunData, item: Item, path: Sequence[PathStep]) -> dict[int, tuple[str, str]]:
    """(label, evidence) by step of the expert's part of a path, as a method of kind `eef` measured
    it.

    The round is that of the example or of the rollout; for an expert trajectory, the last one
    explored.
    """
    expert = next(
        (item.trajectories[step.trajectory] for step in path if step.author.role == "expert"), None
    )
    name = item.method if item.method != EXPERT else _first_eef_method(data)
    method = data.methods.get(name)
    rounds = [
        number
        for number in range(1, data.rounds_of(name) + 1)
        if data.is_done(Stage(name, number, "explore"))
    ]
    if expert is None or not isinstance(method, Eef) or not rounds:
        return {}
    round = (item.round if item.example else item.trajectory.round) or rounds[-1]
    grid = method.measure(data.trajectories(name), expert, round)
    outcomes = {
        state: _OUTCOMES[solvable]
        for state, solvable in zip(grid.states, grid.solvable, strict=True)
    }
    labels = {}
    for t, step in enumerate(path):
        segment = grid.segment_at(t) if step.trajectory == expert.id else None
        if segment is not None:
            labels[t] = (
                f", {segment.label}",
                f"; in round {round} {outcomes[segment.start]} from state {segment.start}, "
                f"{outcomes[segment.end]} from state {segment.end}",
            )
    return labels


def measured_labels(
    data: RunData, task: str, method: str | None, round: int | None
) -> Iterator[tuple[str, str, int, str]]:
    """(expert trajectory, method, round, labels of its segments) wherever a segment was measured.

    A segment is written with the states at its ends: `harmful 4-6`. `method` and `round` restrict
    the search; None stands for all.
    """
    for name, each in data.methods.items():
        if not isinstance(each, Eef) or method not in (None, name):
            continue
        trajectories = data.trajectories(name)
        for number in range(1, data.rounds_of(name) + 1):
            if round not in (None, number) or not data.is_done(Stage(name, number, "explore")):
                continue
            for expert in trajectories.of_task(task):
                if not expert.by_expert:
                    continue
                segments = each.measure(trajectories, expert, number).segments()
                labels = [
                    f"{item.label} {item.start}-{item.end}"
                    for item in segments
                    if item.label != "unknown"
                ]
                if labels:
                    yield expert.id, name, number, ", ".join(labels)


def _first_eef_method(data: RunData) -> str:
    names = (name for name, method in data.methods.items() if isinstance(method, Eef))
    return next(names, EXPERT)


def _examples_of(data: RunData, item: Item) -> Iterator[TrainingExample]:
    """The training examples made from a trajectory, in all rounds of its method."""
    method = item.method if item.method != EXPERT else None
    for _, example in data.selected_examples(method, None):
        if example.trajectory == item.trajectory.id:
            yield example


def _step(t: int, step: PathStep, note: str, *, full: bool) -> Text:
    thought = thought_of(step.step.completion)
    colors = (color for word, color in _COLORS.items() if word in note and "weight 0" not in note)
    text = Text(f"\n{t:>3}  {step.author}  ", style="bold")
    text.append(f"({note})\n", style=f"not bold {next(colors, '')}")
    for label, content, style in (
        ("sees", _shorten(step.step.observation, full), "dim"),
        *(
            (advice_heading(each), _shorten(each.text, full), "magenta")
            for each in step.step.advice
        ),
        ("thinks", thought, "italic"),
        ("does", step.step.action or "no action found", "cyan"),
    ):
        if content:
            text.append(f"     {label + ' ':<7}", style="not bold")
            text.append(f"{content}\n", style=f"not bold {style}")
    text.rstrip()
    return text


def _shorten(observation: str, full: bool) -> str:
    """An observation on one line, cut if it is long; unchanged if `full`."""
    if full:
        return observation
    line = " ".join(observation.split())
    if len(line) <= _SHORT:
        return line
    return f"{line[:_SHORT]} … ({len(line) - _SHORT} more characters)"


def _bracketed(mask: Text) -> Text:
    """A mask without colors: brackets enclose what is trained."""
    parts = [(mask.plain[span.start : span.end], span.style) for span in mask.spans]
    return Text("".join(part if style == "dim" else f"⟦{part}⟧" for part, style in parts))
