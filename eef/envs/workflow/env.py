"""The environment: each action is a workflow, and the observation its score and failed problems.

A task is a set of puzzles of one family: some for validation, whose failures are shown, and some
that are held out. The final reward is the share of held-out problems that the kept workflow solves:
the one with the highest validation accuracy, or the baseline if none is better. The agent never
sees that figure. Step rewards follow `improvement`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from eef.config import ListOf, Settings, unknown_name
from eef.env import AFTER_END, StepResult, ToolEnv
from eef.envs.spec import EnvSpec, chosen_names, group_in_id
from eef.envs.workflow.executor import answer_weakly
from eef.envs.workflow.experts import WORKFLOWS, make_expert
from eef.envs.workflow.problems import FAMILIES, MOST_PROBLEMS, Problem, is_right, make_problems
from eef.envs.workflow.sandbox import Limits, WorkflowRun, check_sandbox, run_workflow
from eef.errors import EnvError
from eef.task import Task, TaskSet
from eef.tools import tool
from eef.utils.text import replace_surrogates

FIRST = {"train": 0, "test": 100_000}
"""Number of the first task of each split."""

BEST, BETTER, POOR = 1.0, 0.5, 0.1  # see `improvement`
POOR_BELOW = 0.3
SHOWN = 3
"""Failed problems in an observation."""

_LONGEST = 160  # characters of an answer or error in an observation
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.S)

RULES = """\
You write workflows: Python functions that solve problems with the help of a weak language model. \
Each turn you run one. You are shown how many validation problems it solves and some that it does \
not. Improve it.

A workflow defines `solve(problem, ask)`. `problem` is the text of a problem. `ask(prompt)` \
returns the model's text; the model sees nothing but the prompt, and another call with the same \
prompt may give another text. `solve` returns the answer, which must be exact. The standard \
library can be imported; there are no files and no network."""


class WorkflowSettings(Settings):
    """Which problems are solved, and the limits of a workflow."""

    families: str | ListOf[str] = "all"
    """`all`, one family of problems, or a list of families."""

    tasks_per_split: int = Field(default=42, ge=1)
    """Number of tasks in each of the splits `train` and `test`."""

    problems: int = Field(default=10, ge=1)
    """Validation problems per task."""

    held_out: int = Field(default=20, ge=1)
    """Held-out problems per task, which decide the final reward. With `problems` at most 100."""

    turns: int = Field(default=2, ge=1)
    """Workflows per episode."""

    repairs: int = Field(default=3, ge=0)
    """Workflows per episode that fail as a whole without using up a turn."""

    success_threshold: float = Field(default=0.8, gt=0, le=1)
    """An episode whose final reward reaches it is a win."""

    calls: int = Field(default=10, ge=1)
    """Maximum calls of the executor per problem."""

    seconds: int = Field(default=5, ge=1)
    """Maximum CPU time of a workflow over all problems of a turn; wall-clock time is limited to
    four times as much."""

    memory: int = Field(default=256, ge=64)
    """Maximum memory of a workflow, in MiB."""

    workers: int = Field(default=2, ge=1)
    """Workflows that run at a time."""

    seed: int = 0
    """Seed of the problems and of the executor."""

    @model_validator(mode="after")
    def _there_are_as_many_problems(self) -> WorkflowSettings:
        if self.problems + self.held_out > MOST_PROBLEMS:
            raise ValueError(
                f"the sum of `problems` and `held_out` is {self.problems + self.held_out}; "
                f"expected at most {MOST_PROBLEMS}, the problems that a family has per task"
            )
        return self


@dataclass(frozen=True, slots=True)
class Session:
    """The state of an episode, which is also its snapshot.

    `best` and `last` are validation accuracies, at first those of the baseline. `kept` is the
    workflow with the best one. `held_out` is set at the end.
    """

    task: int
    baseline: float
    best: float
    last: float
    kept: str
    turns: int = 0
    repairs: int = 0
    held_out: float | None = None


class _TaskProblems(NamedTuple):
    validation: list[Problem]
    held_out: list[Problem]


class Workflow(ToolEnv):
    """Episodes in which an agent writes workflows around a weak executor.

    ConfigError if this machine cannot confine a process.
    """

    name = "workflow"
    supports_snapshot = True
    concurrent = True
    tools = (tool("run", "Run a workflow.", code="string"),)
    rules = RULES

    def __init__(self, settings: WorkflowSettings | None = None) -> None:
        self.settings = settings or WorkflowSettings()
        self.success_threshold = self.settings.success_threshold
        self.step_limit = self.settings.turns + self.settings.repairs
        self._families = chosen_names(
            self.settings.families, FAMILIES, "family of problems", "families"
        )
        self._limits = Limits(
            seconds=self.settings.seconds,
            memory=self.settings.memory,
            calls=self.settings.calls,
        )
        self._slots = threading.BoundedSemaphore(self.settings.workers)  # shared with clones
        self._now: Session | None = None
        check_sandbox()

    def tasks(self, split: str) -> TaskSet:
        if split not in FIRST:
            raise unknown_name("split", split, FIRST, error=EnvError)
        numbers = range(FIRST[split], FIRST[split] + self.settings.tasks_per_split)
        return TaskSet.of([self._task(number, split) for number in numbers])

    def reset(self, task: Task) -> str:
        baseline = self._baseline(task.index)
        kept = WORKFLOWS["direct"]
        self._now = Session(task.index, baseline, baseline, baseline, kept)
        return f"{task.instruction}\n{self._example(task.index)}\n{self._state()}"

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        """Run a workflow on the validation problems."""
        now = self._playing()
        if now.held_out is not None:
            return AFTER_END
        code = _FENCE.sub(r"\1", arguments["code"]).strip("\n")
        problems = self._problems(now.task).validation
        found = self._run(code, problems, "validation")
        accuracy = _accuracy(problems, found)
        reward = improvement(accuracy, now.best, now.last)
        failed = found.failure is not None or not any(each is not None for each in found.answers)
        if failed and now.repairs < self.settings.repairs:
            self._now = replace(now, repairs=now.repairs + 1)
            left = self.settings.repairs - now.repairs - 1
            words = f"The workflow failed: {_first_error(found)}. Repairs left: {left}."
            return StepResult(f"{words}\n{self._state()}", reward, False)
        improved = accuracy > now.best
        now = replace(
            now,
            turns=now.turns + 1,
            last=accuracy,
            best=max(accuracy, now.best),
            kept=code if improved else now.kept,
        )
        over = now.turns >= self.settings.turns
        self._now = replace(now, held_out=self._held_out(now)) if over else now
        words = "\n".join((_describe(problems, found), self._state()))
        return StepResult(words, reward, over)

    def score(self, rewards: Iterable[float]) -> float:
        """The held-out accuracy of this episode's kept workflow, regardless of the rewards."""
        now = self._playing()
        return self._held_out(now) if now.held_out is None else now.held_out

    def snapshot(self) -> Session:
        return self._playing()

    def restore(self, snapshot: Any) -> None:
        self._now = snapshot

    def fingerprint(self) -> dict[str, Any]:
        shown = self.settings.model_dump(exclude={"workers", "families"})
        return {"env": self.name, "families": list(self._families), **shown, "prompt": self.prompt}

    def _task(self, number: int, split: str) -> Task:
        family = self._families[number % len(self._families)]
        instruction = (
            f"Write a workflow for problems of the kind `{family}`. There are "
            f"{self.settings.problems} validation problems."
        )
        index = len(FAMILIES) * number + list(FAMILIES).index(family)
        name = f"{self.name}/{family}/{number}"
        return Task(id=name, env=self.name, index=index, split=split, instruction=instruction)

    def _problems(self, task: int) -> _TaskProblems:
        number, family = divmod(task, len(FAMILIES))
        counts = self.settings.problems, self.settings.held_out
        seed = f"{number} {self.settings.seed}"
        found = make_problems(list(FAMILIES.values())[family], sum(counts), seed)
        return _TaskProblems(found[: counts[0]], found[counts[0] :])

    def _example(self, task: int) -> str:
        """One validation problem with its answer."""
        problem = self._problems(task).validation[0]
        return f"For example: {problem.question}\nIts answer: {problem.answer}"

    def _state(self) -> str:
        now, count = self._playing(), self.settings.problems
        return (
            f"Best so far: {round(now.best * count)} of {count} "
            f"(baseline, which asks once: {round(now.baseline * count)}). "
            f"Turns left: {self.settings.turns - now.turns}."
        )

    def _run(self, code: str, problems: Sequence[Problem], part: str) -> WorkflowRun:
        task = self._playing().task
        asked: Counter[tuple[int, str]] = Counter()

        def ask(index: int, prompt: str) -> str:
            prompt = replace_surrogates(prompt)
            asked[index, prompt] += 1
            return answer_weakly(prompt, self._seed(task, part, index, asked[index, prompt]))

        questions = [problem.question for problem in problems]
        with self._slots:
            return run_workflow(code, questions, ask, self._limits, seed=self.settings.seed)

    def _held_out(self, now: Session) -> float:
        problems = self._problems(now.task).held_out
        return _accuracy(problems, self._run(now.kept, problems, "held out"))

    def _baseline(self, task: int) -> float:
        """The validation accuracy of asking once for the answer, which needs no sandbox."""
        problems = self._problems(task).validation
        right = 0
        for index, problem in enumerate(problems):
            prompt = problem.question + " Give the answer only."
            right += is_right(
                problem, answer_weakly(prompt, self._seed(task, "validation", index, 1))
            )
        return right / len(problems)

    def _seed(self, task: int, part: str, index: int, draw: int) -> str:
        return f"{self.settings.seed} {task} {part} {index} {draw}"

    def _playing(self) -> Session:
        if self._now is None:
            raise EnvError("workflow: no episode has started", hint="call `reset` first")
        return self._now


def improvement(accuracy: float, best: float, last: float) -> float:
    """The reward of a workflow, from its validation accuracy and those before it.

    1 if it is better than the best so far, otherwise 0.5 if it is better than the last, otherwise
    0; minus 0.1 if it solves less than 30 %. (The published code compares with the best at the
    start of the episode.)

    >>> improvement(0.6, 0.5, 0.5), improvement(0.5, 0.6, 0.4), improvement(0.2, 0.6, 0.4)
    (1.0, 0.5, -0.1)
    """
    gained = BEST if accuracy > best else BETTER if accuracy > last else 0.0
    return gained - POOR if accuracy < POOR_BELOW else gained


def _accuracy(problems: Sequence[Problem], found: WorkflowRun) -> float:
    if found.failure is not None:
        return 0.0
    pairs = zip(problems, found.answers, strict=True)
    return sum(is_right(problem, answer) for problem, answer in pairs) / len(problems)


def _describe(problems: Sequence[Problem], found: WorkflowRun) -> str:
    """The score of a workflow, and the first problems that it does not solve."""
    if found.failure is not None:
        return f"The workflow failed: {_line(found.failure)}."
    rows = list(zip(problems, found.answers, found.errors, strict=True))
    wrong = [row for row in rows if not is_right(row[0], row[1])]
    calls = found.calls / len(problems)
    lines = [
        f"The workflow solves {len(rows) - len(wrong)} of {len(rows)} problems with {calls:.1f} "
        "calls per problem."
    ]
    lines += [] if not wrong else ["Not solved, for example:"]
    for problem, answer, error in wrong[:SHOWN]:
        lines += [f"- {problem.question}", f"  The answer is {problem.answer}."]
        what = f"it returned {_line(answer)!r}" if answer is not None else f"{_line(error or '')}"
        lines[-1] += f" The workflow: {what}"
    return "\n".join(lines)


def _first_error(found: WorkflowRun) -> str:
    return _line(found.failure or next(error for error in found.errors if error is not None))


def _line(text: str) -> str:
    """A text in one line without addresses in memory, which differ from run to run."""
    text = replace_surrogates(_ADDRESS.sub("0x…", " ".join(text.split())))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


SPEC = EnvSpec(
    settings=WorkflowSettings,
    make=Workflow,  # type: ignore[arg-type]  # its prompt is a property
    make_expert=make_expert,
    group_of=group_in_id,
)
