"""Causes of lost rollouts, each with its remedy, read from a run's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eef.errors import EefError
from eef.models.location import SHIPPED
from eef.models.manifest import training_tasks
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import BC, EXPERT, Stage, trained_before
from eef.task import env_of
from eef.tools import is_format_error
from eef.trajectory import Trajectory

MANY = 0.5
"""Share of rollouts, turns or words from which a cause is named."""

FEW_EXAMPLES = 8
FEW_LOST = 5
_WORD = re.compile(r"[^\W\d_]{3,}")
_SAMPLE = 20  # rollouts whose first observation is compared with the vocabulary


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for lost rollouts, and its remedy."""

    reason: str
    advice: str


def explain_losses(run: RunData, stage: Stage) -> str:
    """The likely cause of a finished stage's lost rollouts, in a few words.

    If some were won, the only cause that is named is that turns were cut; otherwise "".
    """
    rollouts = rollouts_of(run, stage)
    if not rollouts:
        return ""
    if any(item.success for item in rollouts):
        cut = cut_turns(run, stage, rollouts)
        return str(cut) if cut else ""
    return causes_of(run, stage, rollouts)[0].reason


def rollouts_of(run: RunData, stage: Stage) -> list[Trajectory]:
    """The rollouts that a stage played; failed ones only if there are no others."""
    if stage.kind == "evaluate":
        played: Iterable[Trajectory] = run.evaluation_rollouts(stage.method, stage.round)
    elif stage.kind == "collect":
        played = run.trajectories(EXPERT)
    else:
        played = (
            item
            for item in run.trajectories(stage.method)
            if item.by_student and item.round == stage.round
        )
    rollouts = list(played)
    return [item for item in rollouts if item.status != "error"] or rollouts


def causes_of(run: RunData, stage: Stage, rollouts: Sequence[Trajectory]) -> list[Cause]:
    """The causes that explain these rollouts of a stage, the most likely first; at least one.

    A cause that affects the first turn precedes those that show only later.
    """
    by_expert = stage.method == EXPERT
    found = [
        _all_failed(rollouts),
        _context_overflows(rollouts),
        cut.cause if (cut := cut_turns(run, stage, rollouts)) else None,
        None if by_expert else _other_environment(run),
        None if by_expert else _foreign_words(run, rollouts),
        _turns_without_action(rollouts, by_expert),
        _stopped_by_policy(rollouts),
        _step_limit(rollouts),
        _repetition(rollouts),
        _same_end(rollouts),
        None if by_expert else _few_examples(run, stage),
    ]
    causes = [cause for cause in found if cause is not None]
    return causes or [Cause(_describe_ends(rollouts), f"read one: `eef show {run.path} TASK`")]


def share_without_action(rollouts: Iterable[Trajectory]) -> float:
    """The share of turns that hold no action or no valid call; 0 if there are no turns."""
    actions = [step.action for item in rollouts for step in item.steps]
    return sum(map(is_format_error, actions)) / len(actions) if actions else 0.0


def share_cut(rollouts: Sequence[Trajectory]) -> float:
    """The share of rollouts with a turn that was cut at the maximum of its tokens."""
    cut = [any(step.cut for step in item.steps) for item in rollouts]
    return sum(cut) / len(cut) if cut else 0.0


def share_of_split_words(tokenizer: Any, texts: Iterable[str]) -> float:
    """The share of the words of some texts that a tokenizer has no token for.

    A word counts if it becomes several tokens, or an unknown one. `tokenizer` is that of the
    `tokenizers` package. A tokenizer splits about a fifth of WebShop's words (names of products are
    invented), and most words of an environment that a small student was not made for.
    """
    words = [word for text in texts for word in _WORD.findall(text)]
    tokens = [tokenizer.encode(f" {word}", add_special_tokens=False).tokens for word in words]
    split = [len(each) > 1 or "unk" in "".join(each).lower() for each in tokens]
    return sum(split) / len(split) if split else 0.0


# Causes


def _all_failed(rollouts: Sequence[Trajectory]) -> Cause | None:
    if any(item.status != "error" for item in rollouts):
        return None
    return Cause(
        f"every rollout failed, the first with: {rollouts[0].error}",
        "fix the cause and run again",
    )


def _context_overflows(rollouts: Sequence[Trajectory]) -> Cause | None:
    count = sum(item.error_kind == "context_overflow" for item in rollouts)
    if count < MANY * len(rollouts):
        return None
    return Cause(
        f"{count} of {len(rollouts)} ended at the end of the model's context",
        "raise `chat.max_length`, choose a model with a longer context, or shorten observations",
    )


@dataclass(frozen=True, slots=True)
class CutTurns:
    """The share of lost rollouts with a turn that was cut at a setting `key` of `max_tokens`."""

    share: float
    key: str
    max_tokens: int

    def __str__(self) -> str:
        return (
            f"{whole_percent(self.share)} of the lost rollouts have a turn that was cut at "
            f"`{self.key}` ({self.max_tokens})"
        )

    @property
    def cause(self) -> Cause:
        return Cause(str(self), f"raise `{self.key}` above {self.max_tokens}")


def cut_turns(run: RunData, stage: Stage, rollouts: Sequence[Trajectory]) -> CutTurns | None:
    """None unless most lost rollouts have a cut turn, and won ones half as often at most.

    If any was won, `FEW_LOST` lost ones or fewer show nothing.
    """
    won, lost = ([item for item in rollouts if item.success == result] for result in (True, False))
    share = share_cut(lost)
    if share < MANY or 2 * share_cut(won) > share or (won and len(lost) <= FEW_LOST):
        return None
    recipe = run.recipes.get(stage.method, run.recipe)
    if stage.method != EXPERT:
        return CutTurns(share, "sampling.max_tokens", recipe.sampling.max_tokens)
    # the largest, since rollouts of several experts may be among them
    limits = (recipe.sampling_of(name).max_tokens for name in recipe.expert.names)
    return CutTurns(share, "expert.sampling.max_tokens", max(limits))


def _turns_without_action(rollouts: Sequence[Trajectory], by_expert: bool) -> Cause | None:
    share = share_without_action(rollouts)
    if share < MANY:
        return None
    advice = (
        "state the form `Thought: …`, `Action: …` in the environment's prompt, or choose another "
        "expert"
        if by_expert
        else "train longer (`train.updates`), on more expert wins, or start from a model that "
        "follows the form `Thought: …`, `Action: …`"
    )
    return Cause(f"{whole_percent(share)} of the turns hold no action (format errors)", advice)


def _other_environment(run: RunData) -> Cause | None:
    """The student's manifest names the tasks that it was made from."""
    tasks: Sequence[str] = ()
    with suppress(EefError):  # a report can be written where the student is missing
        tasks = training_tasks(run.recipe.model.name)
    made_for = sorted({env_of(task) for task in tasks})
    if not made_for or run.recipe.env.name in made_for:
        return None
    return Cause(
        f"the student `{run.recipe.model.name}` was made for {', '.join(made_for)}",
        _other_student(run),
    )


def _foreign_words(run: RunData, rollouts: Sequence[Trajectory]) -> Cause | None:
    """The tokenizer saved by behavior cloning does not have the words of the observations."""
    texts = [item.steps[0].observation for item in rollouts[:_SAMPLE] if item.steps]
    path = run.folder(Stage(BC, 0, "train")) / "checkpoint" / "tokenizer.json"
    share = 0.0
    if path.is_file():
        with suppress(ImportError):  # a report can be written without the packages for training
            from tokenizers import Tokenizer

            share = share_of_split_words(Tokenizer.from_file(str(path)), texts)
    if share < MANY:
        return None
    return Cause(
        f"the vocabulary of the student `{run.recipe.model.name}` was made for another "
        f"environment: {whole_percent(share)} of the words it sees are not in it",
        _other_student(run),
    )


def _other_student(run: RunData) -> str:
    advice, env = "set `model.name` to a pretrained model", run.recipe.env.name
    shipped = next((name for name, made_for in SHIPPED.items() if made_for == env), None)
    if shipped is None:  # `eef model build` builds none for it
        return advice
    return f"{advice}, to `{shipped}`, or to a student of `eef model build --env {env}`"


def _stopped_by_policy(rollouts: Sequence[Trajectory]) -> Cause | None:
    count = sum(item.error_kind == "policy_done" for item in rollouts)
    if count < MANY * len(rollouts):
        return None
    return Cause(
        f"in {count} of {len(rollouts)} the policy declined to act",
        "choose another expert, or tasks that it has a solution for",
    )


def _step_limit(rollouts: Sequence[Trajectory]) -> Cause | None:
    limited = [item for item in rollouts if item.status == "truncated" and not item.error_kind]
    if len(limited) < len(rollouts):
        return None
    longest = max(item.length for item in limited)
    return Cause(
        f"all {len(rollouts)} ran into the step limit ({longest} steps)",
        f"raise `rollouts.step_limit` above {longest} if solutions are longer",
    )


def _repetition(rollouts: Sequence[Trajectory]) -> Cause | None:
    pairs = [
        first.action == second.action and not is_format_error(first.action)
        for item in rollouts
        for first, second in zip(item.steps, item.steps[1:], strict=False)
    ]
    share = sum(pairs) / len(pairs) if pairs else 0.0
    if share < MANY:
        return None
    return Cause(
        f"{whole_percent(share)} of the actions repeat the one before",
        "raise `evaluate.temperature` or `sampling.temperature`, or train on more varied wins",
    )


def _same_end(rollouts: Sequence[Trajectory]) -> Cause | None:
    ends = {(item.status, item.reward, len(item.steps)) for item in rollouts}
    if len(ends) > 1 or rollouts[0].status != "terminated":
        return None
    steps, reward = len(rollouts[0].steps), rollouts[0].reward or 0.0
    count = f"{steps} step" if steps == 1 else f"{steps} steps"
    return Cause(
        f"the environment ended every rollout after {count} with reward {reward:.2f}",
        "check the environment with `eef env check`, and read the rollouts",
    )


def _few_examples(run: RunData, stage: Stage) -> Cause | None:
    trained = trained_before(stage) if stage.kind == "explore" else stage.sibling("train")
    selected = run.summary(Stage(trained.method, trained.round, "select")) or {}
    examples = None if "acts" in selected else selected.get("examples")
    if examples is None or examples >= FEW_EXAMPLES:
        return None
    return Cause(
        f"the student was trained on {examples} example{'' if examples == 1 else 's'}",
        "collect more expert trajectories (`expert.tasks`, `tasks.train`), or use a better expert",
    )


def _describe_ends(rollouts: Sequence[Trajectory]) -> str:
    ended = sum(item.status == "terminated" for item in rollouts)
    best = max((item.reward or 0.0 for item in rollouts), default=0.0)
    return (
        f"the environment ended {ended}, the step limit {len(rollouts) - ended}; the best reward "
        f"is {best:.2f}"
    )


def whole_percent(share: float) -> str:
    """A share in percent, without decimals."""
    return f"{100 * share:.0f} %"
