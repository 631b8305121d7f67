"""Run a workflow in a confined process that reaches a model only through a pipe to this one.

`eef.envs.workflow.jail` confines the process. This side starts it, bounds its time and output,
counts its calls, and ends it. Nothing that it writes is trusted: lines are JSON of bounded length.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.errors import ConfigError

JAIL = Path(__file__).with_name("jail.py")
LONGEST_CODE = 20_000
"""Characters of a workflow; longer ones fail."""

_LONGEST_LINE = 1 << 16  # bytes
_LONGEST_OUTPUT = 1 << 22
_REFUSED_CALLS = 100  # per problem; a workflow that continues after these is ended
_WALL = 4.0  # seconds of wall-clock time per second of CPU time
_FILES = 4 << 20  # bytes
_SECONDS_TO_END = 5.0
_HINT = (
    "workflows need Linux with unprivileged user namespaces (Ubuntu: "
    "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`), or root with CAP_SYS_ADMIN"
)

Ask = Callable[[int, str], str]
"""(index of the problem, prompt) → the model's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one workflow over all its problems.

    `seconds` of CPU time, and four times as many of wall-clock time; `memory` in MiB; `calls` of
    the model per problem.
    """

    seconds: int = 5
    memory: int = 256
    calls: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """The answers of a workflow, one per problem.

    An answer is None if the workflow raised an exception there; `errors` has its text. `failure` is
    the reason if the workflow could not be loaded or was ended; then there are no answers.
    """

    answers: tuple[str | None, ...] = ()
    errors: tuple[str | None, ...] = ()
    calls: int = 0
    failure: str | None = None


class _Ended(Exception):
    """The workflow was ended, with the reason."""


def run_workflow(
    code: str, problems: Sequence[str], ask: Ask, limits: Limits, *, seed: int = 0
) -> WorkflowRun:
    """Run `solve(problem, ask)` of a workflow on each problem, in order, in one process.

    ConfigError if this machine cannot confine a process.
    """
    if len(code) > LONGEST_CODE:
        return WorkflowRun(failure=f"it has more than {LONGEST_CODE:,} characters")
    if sys.platform != "linux":
        raise ConfigError(f"workflows cannot be confined on {sys.platform}", hint=_HINT)
    with tempfile.TemporaryDirectory(prefix="eef-workflow-") as root:
        process = _Process(root, limits)
        try:
            process.load(code)
            return _solve(process, problems, ask, limits, seed)
        except _Ended as ended:
            return WorkflowRun(failure=str(ended))
        finally:
            process.end()


def check_sandbox() -> None:
    """ConfigError if this machine cannot confine a process."""
    code = "def solve(problem, ask):\n    return problem"
    found = run_workflow(code, ["x"], lambda index, prompt: "", Limits())
    if found.answers != ("x",):
        raise ConfigError(f"the sandbox for workflows does not work: {found.failure}", hint=_HINT)


def _solve(
    process: _Process, problems: Sequence[str], ask: Ask, limits: Limits, seed: int
) -> WorkflowRun:
    answers: list[str | None] = []
    errors: list[str | None] = []
    total = 0
    for index, problem in enumerate(problems):
        process.send({"problem": problem, "seed": f"{seed} {index}"})
        calls = 0
        for _ in range(limits.calls + _REFUSED_CALLS):
            record = process.receive()
            if isinstance(record.get("ask"), str):
                calls += 1
                if calls > limits.calls:
                    process.send({"refused": f"more than {limits.calls} calls for one problem"})
                else:
                    total += 1
                    process.send({"text": ask(index, record["ask"])})
                continue
            answer, error = record.get("answer"), record.get("error")
            if not isinstance(answer if error is None else error, str):
                raise _Ended("it wrote something other than an answer into the pipe")
            answers.append(answer if error is None else None)
            errors.append(error)
            break
        else:
            raise _Ended(f"it called the model {calls} times for one problem")
    return WorkflowRun(answers=tuple(answers), errors=tuple(errors), calls=total)


class _Process:
    """The confined process."""

    def __init__(self, root: str, limits: Limits) -> None:
        self._root, self._limits = root, limits
        self._deadline = time.monotonic() + _WALL * limits.seconds
        self._read, self._buffer = 0, b""
        # not -I: it would ignore PYTHONHASHSEED, and workflows must give the same answers again
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", str(JAIL)],
            env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def load(self, code: str) -> None:
        """Confine the process and load the workflow."""
        self.send(
            {
                "code": code,
                "root": self._root,
                "memory": self._limits.memory << 20,
                "seconds": self._limits.seconds,
                "files": _FILES,
            }
        )
        record = self.receive()
        if "refused" in record:
            raise ConfigError(
                f"this machine cannot confine workflows: {record['refused']}", hint=_HINT
            )
        record = self.receive()  # the first one that the workflow may have written
        if record.get("ready") is not True:
            raise _Ended(str(record.get("failed") or "it wrote something else into the pipe"))

    def send(self, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b"\n"
        while data:
            self._wait(self._in, selectors.EVENT_WRITE)
            try:
                data = data[os.write(self._in, data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise _Ended(self._reason()) from None

    def receive(self) -> dict[str, Any]:
        """The next line. Raises _Ended if there is none, or if it is not a JSON object."""
        while b"\n" not in self._buffer:
            data = self._data()
            self._read += len(data)
            self._buffer += data
            if not data:
                raise _Ended(self._reason())
            if self._read > _LONGEST_OUTPUT:
                raise _Ended("it wrote too much into the pipe")
            if len(self._buffer) > _LONGEST_LINE and b"\n" not in self._buffer:
                raise _Ended(f"it wrote a line of more than {_LONGEST_LINE:,} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise _Ended("it wrote something other than JSON into the pipe")
        return record

    def end(self) -> None:
        """Kill the process and the one that it confines; returns when both have ended."""
        self._process.kill()
        self._process.wait()
        self._deadline = time.monotonic() + _SECONDS_TO_END
        with suppress(_Ended):  # the other one dies of this, and its end of the pipe closes
            while self._data():
                pass
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _data(self) -> bytes:
        """The next bytes from the pipe; none if it is closed."""
        while True:
            self._wait(self._out, selectors.EVENT_READ)
            with suppress(BlockingIOError):
                return os.read(self._out, _LONGEST_LINE)

    def _wait(self, file: int, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(file, event)
            if not selector.select(max(0.0, self._deadline - time.monotonic())):
                raise _Ended(self._out_of_time)

    @property
    def _out_of_time(self) -> str:
        return f"it exceeded its time limit of {self._limits.seconds} s"

    def _reason(self) -> str:
        """Why the process has ended by itself."""
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        killed = status in (-9, 256 - 9)
        return self._out_of_time if killed else "its process ended early"
