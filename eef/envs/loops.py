"""LoopEnv: episodes that the agent loop of another framework runs, one model request at a time.

The framework runs in a process of its own (`loop_worker`), with its own Python environment if
`python` names one. Each request of its loop for a completion is an observation; the action becomes
the model's turn. The framework itself executes tools, simulates users and scores the episode.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from time import monotonic
from typing import IO, Any, ClassVar, Self

from pydantic import Field, JsonValue

from eef.config import Settings, unknown_name
from eef.env import AFTER_END, StepResult, ToolEnv
from eef.envs import loop_worker
from eef.envs.foreign import react_rules
from eef.errors import ConfigError, EnvDied, EnvError
from eef.task import Task, TaskSet
from eef.tools import Tool, Toolset

Json = dict[str, Any]

_LONGEST = 2000  # characters of a task's goal


class LoopSettings(Settings):
    """Settings of every adapter of an agent loop."""

    task: str
    """Inspect: the function that makes the task, as `module:function` or `file.py:function`;
    verifiers: the id of an installed environment."""

    options: dict[str, JsonValue] = Field(default={})
    """Arguments of the task or environment."""

    python: str | None = None
    """Python interpreter that has the framework; by default the one that runs `eef`."""

    tasks_per_split: int | None = Field(default=None, ge=1)
    """Maximum number of tasks in each of the splits `train` and `test`; all by default."""

    step_limit: int = Field(default=30, ge=1)
    """Default step limit of a rollout. The framework's own limits apply too."""

    success_threshold: float = Field(default=1.0, gt=0, le=1)
    """Score from which an episode is a win."""

    best_return: float = Field(default=1.0, gt=0)
    """The reward that scores 1."""

    replayable: bool = True
    """Whether the same actions give the same episode; if not, methods that branch are refused."""

    ignored: tuple[str, ...] = Field(default=(), strict=False)
    """Regular expressions; their matches in observations are not compared when actions are
    replayed."""

    timeout: float = Field(default=300.0, gt=0)
    """Seconds that the framework may take between two of its requests."""


class LoopEnv(ToolEnv):
    """An environment whose episodes are runs of an agent loop.

    A turn of text alone is the call of `answer`. If the loop offers no tools, any action is the
    text of the turn. ConfigError if the framework cannot load the task, EnvDied if it hangs.
    """

    framework: ClassVar[str]
    package: ClassVar[str]
    concurrent = True

    def __init__(self, settings: LoopSettings) -> None:
        self._settings = settings
        self.step_limit = settings.step_limit
        self.success_threshold = settings.success_threshold
        self.replayable = settings.replayable
        self.ignored = settings.ignored
        self._worker: _Worker | None = None
        self._shown, self._over = 0, True
        try:
            started = self._start()
            self._splits = _splits(started["tasks"], settings.tasks_per_split)
            self._version = str(started["versions"])
            self._offer()
        finally:
            self.close()  # an episode starts a process when it is first needed

    @property
    def prompt(self) -> str:  # type: ignore[override]
        if self.tools:
            return super().prompt
        return "\n\n".join(part for part in (self.rules, react_rules()) if part)

    def tasks(self, split: str) -> TaskSet:
        if split not in self._splits:
            raise unknown_name("split", split, self._splits, error=EnvError)
        return TaskSet.of(
            [
                Task(
                    id=f"{self.name}/{index}",
                    env=self.name,
                    index=index,
                    split=split,
                    instruction=goal[:_LONGEST],
                )
                for index, (_, goal) in self._splits[split].items()
            ]
        )

    def reset(self, task: Task) -> str:
        request = self._begin(task)
        self._shown, self._over = len(request["messages"]), False
        self._check_tools(request)
        return _joined(request["messages"], without=self.rules)

    def step(self, action: str) -> StepResult:
        if self._over:
            return AFTER_END
        return super().step(action) if self.tools else self._turn(action, [])

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        if name == self.text_action:
            return self._turn(arguments["text"], [])
        return self._turn("", [{"name": name, "arguments": arguments}])

    def clone(self) -> Self:
        other = super().clone()
        other._worker, other._over = None, True
        return other

    def fingerprint(self) -> dict[str, Any]:
        own = self._settings.model_dump(mode="json", exclude={"python", "timeout"})
        return {"env": self.name, **own, self.framework: self._version, "prompt": self.prompt}

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _offer(self) -> None:
        """Learn the rules and tools of the loop from its first request."""
        splits = (*self.tasks("train"), *self.tasks("test"))
        if not splits:
            raise ConfigError(f"environment {self.name!r}: `{self._settings.task}` has no tasks")
        request = self._begin(splits[0])
        first = request["messages"][:1]
        self.rules = first[0]["text"] if first and first[0]["role"] == "system" else ""
        self.tools = tuple(
            Tool(each["name"], each["description"], _schema(each["parameters"]))
            for each in request["tools"]
        )
        self.text_action = "answer" if self.tools else ""
        if self.tools:
            Toolset(self.tools, self.text_action)  # raises for what cannot be offered

    def _check_tools(self, request: Json) -> None:
        names = tuple(each["name"] for each in request["tools"])
        if names != tuple(each.name for each in self.tools):
            raise EnvError(
                f"`{self._settings.task}` offers different tools in this task: {', '.join(names)}",
                hint="all tasks of a run must offer the same tools; split them by `env.options`",
            )

    def _turn(self, text: str, calls: list[Json]) -> StepResult:
        assert self._worker is not None, "call `reset` first"
        message = self._worker.ask({"reply": {"text": text, "calls": calls}})
        if "end" in message:
            self._over = True
            reward = min(1.0, max(0.0, message["end"]["reward"] / self._settings.best_return))
            return StepResult(AFTER_END.observation, reward, True)
        request = self._requested(message)
        before, self._shown = self._shown + 1, len(request["messages"])  # our own turn is the first
        return StepResult(_joined(request["messages"][before:]) or "…", 0.0, False)

    def _begin(self, task: Task) -> Json:
        """The first request of a task's episode."""
        row = self._splits.get(task.split, {}).get(task.index)
        if row is None:
            raise EnvError(f"{self.name} has no task {task.id}")
        if self._worker is None:
            self._start()
        assert self._worker is not None
        self._worker.abandon()
        play = {"split": task.split, "row": row[0], "index": task.index}
        return self._requested(self._worker.ask({"play": play}))

    def _requested(self, message: Json) -> Json:
        if "ask" in message:
            return dict(message["ask"])
        if "end" in message:
            raise EnvError(f"`{self._settings.task}` ended before the agent's first turn")
        raise EnvError(f"`{self._settings.task}` failed: {message.get('error', message)}")

    def _start(self) -> Json:
        """Start the process; returns its tasks."""
        settings = self._settings
        self._worker = _Worker(
            settings.python or sys.executable,
            self.framework,
            {
                "task": settings.task,
                "options": settings.options,
                "model_roles": getattr(settings, "model_roles", {}),
            },
            settings.timeout,
        )
        started = self._worker.read()
        if "tasks" in started:
            return started
        if "missing" in started and settings.python is None:
            install = f"`pip install {self.package}`"
            hint = f"{install}, or name an interpreter that has it in `env.python`"
        else:
            hint = "check `env.task`, `env.options` and `env.python`"
        raise ConfigError(
            f"environment {self.name!r}: `{settings.task}` cannot be loaded: {started['error']}",
            hint=hint,
        )


class _Worker:
    """The process of one episode at a time. EnvDied if it ends, or if it takes too long."""

    def __init__(self, python: str, framework: str, settings: Json, timeout: float) -> None:
        self._timeout = timeout
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 – closed by `close`
        command = [python, loop_worker.__file__, framework, json.dumps(settings)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise ConfigError(f"`env.python` is {python!r}: {error.strerror}") from None
        self._rest = b""
        self._waiting = False  # whether the loop waits for a reply

    def ask(self, message: Json) -> Json:
        """Send a message and read the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died("ended") from None
        return self.read()

    def read(self) -> Json:
        """The next message."""
        assert self._process.stdout is not None
        deadline = monotonic() + self._timeout
        while b"\n" not in self._rest:
            ready, _, _ = select.select(
                [self._process.stdout], [], [], max(0.0, deadline - monotonic())
            )
            if not ready:
                raise self._died(f"did nothing for {self._timeout:g} s")
            part = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not part:
                raise self._died("ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        message: Json = json.loads(line)
        self._waiting = "ask" in message
        return message

    def abandon(self) -> None:
        """End the episode under way, if there is one."""
        while self._waiting:
            self.ask({"stop": True})

    def close(self) -> None:
        self._kill()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):
                if file is not None:
                    file.close()

    def _kill(self) -> None:
        """End the process and those that it has started, which are in its group."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _died(self, how: str) -> EnvDied:
        self._kill()
        self._waiting = False
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:300]}" if lines else ""
        return EnvDied(f"the process of the agent loop {how}{last}")


def _splits(found: dict[str, list[str]], most: int | None) -> dict[str, dict[int, tuple[int, str]]]:
    """Split → task number → (row in the framework's split, goal).

    One list of samples is halved: the first half is the split `test`.
    """
    if "all" in found:
        rows = list(enumerate(found["all"]))
        half = len(rows) // 2 if most is None else min(most, len(rows) // 2)
        parts = {"test": rows[:half], "train": rows[half:]}
        return {
            split: {row: (row, goal) for row, goal in part[:most]} for split, part in parts.items()
        }
    first = len(found["test"])
    numbers = {"test": 0, "train": first}
    return {
        split: {numbers[split] + row: (row, goal) for row, goal in enumerate(found[split][:most])}
        for split in numbers
    }


def _joined(messages: list[Json], *, without: str = "") -> str:
    texts = [each["text"] for each in messages]
    if messages and messages[0]["role"] == "system" and texts[0] == without:
        texts = texts[1:]
    return "\n\n".join(text for text in texts if text)


def _schema(parameters: Json) -> Json:
    return {"type": "object", "properties": {}, **parameters}
