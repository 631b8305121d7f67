"""Plays the agent loops of other frameworks: `python loop_worker.py FRAMEWORK SETTINGS`.

The process speaks JSON, one message per line: `play` comes in, `ask` (a model request) goes out and
`reply` comes back, until `end` or `error`. `stop` ends an episode early. The file imports nothing
of `eef`, so that it runs in the Python environment of the framework.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Stopped(BaseException):
    """The episode was abandoned."""


class Channel:
    """Messages to and from the parent process. What a framework prints goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._stopped = False

    def send(self, **message: Any) -> None:
        self._out.write(json.dumps(message, default=str) + "\n")
        self._out.flush()

    def plays(self) -> Iterator[Json]:
        """The episodes to play."""
        while True:
            message = self._read()
            if "play" in message:
                self._stopped = False
                yield message["play"]

    def ask(self, messages: list[Json], tools: list[Json]) -> Json:
        """The model's turn: `text`, and `calls` with name and arguments."""
        if self._stopped:
            raise Stopped
        self.send(ask={"messages": messages, "tools": tools})
        answer = self._read()
        if "reply" not in answer:
            self._stopped = True
            raise Stopped
        return dict(answer["reply"])

    def _read(self) -> Json:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the parent has ended
        return dict(json.loads(line))


def play_inspect(settings: Json, channel: Channel) -> None:
    """Samples of an Inspect task; the reward is the mean of a sample's scores."""
    from inspect_ai import eval as evaluate
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ModelAPI,
        ModelOutput,
        get_model,
        modelapi,
    )
    from inspect_ai.tool import ToolCall

    make = _load(settings["task"])
    samples = list(make(**settings["options"]).dataset)
    channel.send(
        tasks={"all": [_goal(sample.input) for sample in samples]},
        versions=_version("inspect_ai"),
    )

    @modelapi(name="eef")
    class Asked(ModelAPI):
        async def generate(
            self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any
        ) -> Any:
            offered = [
                {
                    "name": each.name,
                    "description": each.description,
                    "parameters": each.parameters.model_dump(exclude_none=True),
                }
                for each in tools
            ]
            try:
                reply = channel.ask([{"role": m.role, "text": m.text} for m in input], offered)
            except Stopped as stopped:
                raise RuntimeError("the episode was abandoned") from stopped
            calls = [
                ToolCall(id=f"call_{len(input)}_{n}", function=c["name"], arguments=c["arguments"])
                for n, c in enumerate(reply["calls"])
            ]
            message = ChatMessageAssistant(content=reply["text"], tool_calls=calls or None)
            reason = "tool_calls" if calls else "stop"
            choice = ChatCompletionChoice(message=message, stop_reason=reason)
            return ModelOutput(model="eef", choices=[choice])

    with tempfile.TemporaryDirectory() as logs:
        for number in channel.plays():
            [log] = evaluate(
                make(**settings["options"]),
                model=get_model("eef/agent", memoize=False),
                model_roles=settings["model_roles"] or None,
                limit=(number["index"], number["index"] + 1),
                epochs=1,
                log_dir=logs,
                display="none",
                fail_on_error=True,
                retry_on_error=0,
            )
            if log.status != "success" or not log.samples:
                channel.send(error=str(log.error.message if log.error else log.status))
                continue
            scores = [_grade(score.value) for score in (log.samples[0].scores or {}).values()]
            graded = [score for score in scores if score is not None]
            channel.send(end={"reward": sum(graded) / len(graded) if graded else 0.0})


def play_verifiers(settings: Json, channel: Channel) -> None:
    """Rollouts of an environment of verifiers; the reward is its rubric's."""
    import verifiers as vf
    from verifiers.types import Response, ResponseMessage

    env = vf.load_environment(settings["task"], **settings["options"])
    rows = {"train": _rows(env.get_dataset), "test": _rows(env.get_eval_dataset)}
    channel.send(
        tasks={split: [_goal(row["prompt"]) for row in rows[split]] for split in rows},
        versions=_version("verifiers"),
    )

    class Asked(vf.Client):
        def __init__(self) -> None:
            super().__init__(None)

        async def get_response(
            self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **_: Any
        ) -> Any:
            offered = [
                {"name": t.name, "description": t.description, "parameters": t.parameters}
                for t in tools or ()
            ]
            messages = [{"role": _field(m, "role"), "text": _text(_field(m, "content"))}
                        for m in prompt]  # fmt: skip
            reply = channel.ask(messages, offered)
            calls = [
                {"id": f"call_{len(messages)}_{n}", "name": c["name"],
                 "arguments": json.dumps(c["arguments"])}
                for n, c in enumerate(reply["calls"])
            ]  # fmt: skip
            message = ResponseMessage(
                content=reply["text"],
                tool_calls=calls or None,
                finish_reason="tool_calls" if calls else "stop",
                is_truncated=False,
                tokens=None,
            )
            return Response(id="eef", created=0, model=model, usage=None, message=message)

        def setup_client(self, config: Any) -> Any: ...
        async def to_native_tool(self, tool: Any) -> Any: ...
        async def to_native_prompt(self, messages: Any) -> Any: ...
        async def get_native_response(self, *args: Any, **kwargs: Any) -> Any: ...
        async def raise_from_native_response(self, response: Any) -> None: ...
        async def from_native_response(self, response: Any) -> Any: ...
        async def close(self) -> None: ...

    async def rollout(row: Json) -> float:
        state = await env.rollout(dict(row), Asked(), "eef", {})
        if state.get("error") is not None:
            raise RuntimeError(f"{type(state['error']).__name__}: {state['error']}")
        await env.rubric.score_rollout(state)
        return float(state["reward"])

    for number in channel.plays():
        try:
            reward = asyncio.run(rollout(rows[number["split"]][number["row"]]))
        except Stopped:
            channel.send(error="the episode was abandoned")
        else:
            channel.send(end={"reward": reward})


PLAYERS = {"inspect": play_inspect, "verifiers": play_verifiers}


def _load(reference: str) -> Any:
    """The function of `module:function` or `file.py:function`."""
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise FileNotFoundError(f"no such file `{place}`")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        sys.path.append(os.getcwd())
        module = importlib.import_module(place)
    return getattr(module, name)


def _rows(dataset: Any) -> list[Json]:
    try:
        return list(dataset())
    except (ValueError, TypeError, AttributeError):  # an environment may have one of the two
        return []


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)


def _goal(prompt: Any) -> str:
    """The last user message of a prompt."""
    if isinstance(prompt, str):
        return prompt
    users = [m for m in prompt if _field(m, "role") == "user"] or list(prompt)
    return _text(_field(users[-1], "content"))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(_field(part, "text") or "") for part in content)
    return "" if content is None else str(content)


def _grade(value: Any) -> float | None:
    """A score as a number; Inspect writes C, P, I, N for correct, partial, incorrect, no answer."""
    if isinstance(value, str):
        return {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}.get(value)
    return float(value) if isinstance(value, int | float) else None


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package.replace("_", "-"))


def main(framework: str, settings: str) -> None:
    channel = Channel()
    try:
        PLAYERS[framework](json.loads(settings), channel)
    except ModuleNotFoundError as error:
        channel.send(missing=error.name, error=str(error))
    except Exception as error:
        channel.send(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # its modules have the names of the frameworks
    main(*sys.argv[1:])
