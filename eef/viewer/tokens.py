"""TokenWorker: training examples as tokens with loss weights, rendered in a process of its own.

A tokenizer needs the packages for training and several hundred megabytes. The viewer starts this
process when the first example is opened; it ends with the viewer.

    python -m eef.viewer.tokens RUN      reads a request per line, writes an answer per line
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eef.errors import EefError
from eef.selection import Acts, TrainingExample
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.extras import require_package
from eef.utils.records import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from eef.renderer import Rendered


@dataclass(frozen=True, slots=True)
class Mask:
    """The rendered text in spans of equal weight; `trained` of `tokens` tokens carry loss."""

    spans: list[tuple[str, float]]
    trained: int
    tokens: int


class TokenWorker:
    """The process that renders the examples of one run; started when it is first needed.

    Safe to use from several threads: one request at a time.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(self, example: TrainingExample | Acts, path: Iterable[Trajectory]) -> Mask:
        """The mask of an example on its tokens; `path` are the trajectories its path consists of.

        The weights of acts are advantages.

        EefError if the packages, the model or the environment are not on this machine, or if the
        example cannot be rendered.
        """
        request = {
            "kind": example.KIND,
            "example": example.to_record(),
            "trajectories": [item.to_record() for item in path],
        }
        with self._lock:
            answer = self._ask(request)
        if "error" in answer:
            raise EefError(answer["error"], hint=answer["hint"])
        spans = [(str(text), float(weight)) for text, weight in answer["spans"]]
        return Mask(spans, answer["trained"], answer["tokens"])

    def close(self) -> None:
        """End the process, if it was started."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.communicate()

    def _ask(self, request: Json) -> Json:
        if self._process is None or self._process.poll() is not None:
            require_package("transformers", "the loss mask by token")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "eef.viewer.tokens", str(self._run)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C ends the viewer, which ends it
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "it is a pipe"
        assert stdout is not None, "it is a pipe"
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise EefError(
                "the process that renders tokens has ended",
                hint="reload the page to start it again",
            )
        answer: Json = json.loads(line)
        return answer


def decode_by_weight(
    rendered: Rendered, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[str, float]]:
    """The rendered text in spans of equal weight."""
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    for weight, tokens in groupby(pairs, key=itemgetter(1)):
        yield str(tokenizer.decode([token for token, _ in tokens])), weight


def main(run: Path, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until their stream ends."""
    from eef.pipeline.context import RunContext
    from eef.pipeline.run_directory import RunDirectory
    from eef.renderer import Renderer
    from eef.rendering import render_example

    context = RunContext(RunDirectory.open(run))
    renderer: Renderer | None = None
    for line in requests:
        request = json.loads(line)
        try:
            renderer = renderer or context.base_renderer()
            trajectories = TrajectorySet(map(Trajectory.from_record, request["trajectories"]))
            kind = Acts if request["kind"] == Acts.KIND else TrainingExample
            example = kind.from_record(request["example"])
            rendered = render_example(example, trajectories, context.prompt, renderer)
            answer: Json = {
                "spans": list(decode_by_weight(rendered, renderer.tokenizer)),
                "trained": rendered.trained,
                "tokens": len(rendered.ids),
            }
        except EefError as error:
            answer = {"error": error.message, "hint": error.hint}
        except Exception as error:  # a tokenizer can fail in many ways; a page must not
            answer = {"error": f"{type(error).__name__}: {error}", "hint": ""}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # whatever a library prints goes to standard error
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        main(Path(sys.argv[1]), sys.stdin, answers)
