"""Forms of tool calls: how the models of each family write them, and one parser per form.

A chat template defines the form; `find_form` recognizes it by a trial call. transformers parses
calls too (`parse_response`), but only of tokenizers with a response schema, and without the place
of each call in the text, which the loss mask needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eef.thoughts import thought_blocks
from eef.tools import Call, Tool, Toolset, Turn, tool

TRIAL = Toolset((tool("look_up", "Look up.", query="string", count="integer"),))
"""The tools of the trial call."""

TRIAL_CALL = Call("look_up", {"query": "red mug", "count": 2})


class Written(NamedTuple):
    """A call in a text: `text[start:end]`. `call` is None if it cannot be parsed."""

    start: int
    end: int
    call: Call | None


@dataclass(frozen=True, slots=True)
class CallForm:
    """A form of calls. `find` finds them in a completion, in order."""

    name: str
    find: Callable[[str, Mapping[str, Tool]], list[Written]]

    def read(self, completion: str, tools: Toolset) -> Turn:
        """A completion as its model wrote it, as its text and calls.

        If a call cannot be parsed, all is text. Text after the last call is dropped. A thought
        block holds no call.
        """
        found = self._found(completion, tools)
        calls = [each.call for each in found if each.call is not None]
        if not calls or len(calls) < len(found):
            return Turn(completion, ())
        return Turn(completion[: found[0].start].rstrip(), tuple(calls))

    def span(self, completion: str, tools: Toolset) -> tuple[int, int] | None:
        """The (start, end) of the calls in a completion."""
        found = self._found(completion, tools)
        return (found[0].start, found[-1].end) if found else None

    def _found(self, completion: str, tools: Toolset) -> list[Written]:
        blocks = thought_blocks(completion)
        return [
            each
            for each in self.find(completion, {tool.name: tool for tool in tools.tools})
            if not any(start <= each.start < end for start, end in blocks)
        ]


def find_form(written: str) -> CallForm | None:
    """The form of a text that holds the trial call; None if it is unknown."""
    return next((form for form in FORMS if form.read(written, TRIAL).calls == (TRIAL_CALL,)), None)


_HERMES = re.compile(r"<tool_call>\s*(\{.*?)\s*(?:</tool_call>|\Z)", re.S)
_FUNCTION = re.compile(
    r"(?:<tool_call>\s*)?<function=([^>\s]+)>(.*?)</function>(?:\s*</tool_call>)?", re.S
)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.S)
_GLM = re.compile(r"<tool_call>([^\s<{]+)\s*((?:<arg_key>.*?)?)(?:</tool_call>|\Z)", re.S)
_GLM_ARGUMENT = re.compile(r"<arg_key>\s*(.*?)\s*</arg_key>\s*<arg_value>(.*?)</arg_value>", re.S)
_DEEPSEEK = re.compile(
    r"(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([^\n<]+?)"
    r"(?:\n```json\n(.*?)\n```|<｜tool▁sep｜>(.*?))<｜tool▁call▁end｜>\s*(?:<｜tool▁calls▁end｜>)?",
    re.S,
)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*")
_MISTRAL_NAME = re.compile(r"([A-Za-z][\w-]*)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")
_LLAMA = re.compile(r"(?:<\|python_tag\|>)?\s*(?=\{\s*\"(?:name|type)\")")


def _hermes(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    return [
        Written(found.start(), found.end(), _call(_parsed(found[1])))
        for found in _HERMES.finditer(text)
    ]


def _function(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    """Qwen3-Coder, Qwen3.5: arguments in tags."""
    return [
        _tagged(found, _PARAMETER.findall(found[2]), tools) for found in _FUNCTION.finditer(text)
    ]


def _glm(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    """GLM 4.5 and later: the name, then keys and values in tags."""
    return [_tagged(found, _GLM_ARGUMENT.findall(found[2]), tools) for found in _GLM.finditer(text)]


def _tagged(
    found: re.Match[str], arguments: list[tuple[str, str]], tools: Mapping[str, Tool]
) -> Written:
    """A call whose arguments are texts; the schema says which of them are strings."""
    name = found[1]
    types = tools[name].parameters.get("properties", {}) if name in tools else {}
    values = {
        key: value if types.get(key, {}).get("type") == "string" else _value(value)
        for key, value in arguments
    }
    return Written(found.start(), found.end(), Call(name, values))


def _deepseek(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    """DeepSeek V3, R1 (fenced JSON) and V3.1 (JSON alone)."""
    calls = []
    for found in _DEEPSEEK.finditer(text):
        arguments = _parsed(found[2] or found[3] or "")
        call = None if arguments is None else Call(found[1], arguments)
        calls.append(Written(found.start(), found.end(), call))
    return calls


def _mistral(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    """`[TOOL_CALLS]` with a list of calls, or with `name[ARGS]{…}`, once per call."""
    calls: list[Written] = []
    for mark in _MISTRAL.finditer(text):
        name = _MISTRAL_NAME.match(text, mark.end())
        value, end = _json_at(text, name.end() if name else mark.end())
        if name:
            calls.append(Written(mark.start(), end, Call(name[1], value) if value else None))
        else:
            items = value if isinstance(value, list) and value else [value]
            calls += [Written(mark.start(), end, _call(item)) for item in items]
    return calls


def _llama(text: str, tools: Mapping[str, Tool]) -> list[Written]:
    """The rest of the completion is one JSON object with a name, or several after `;`."""
    for mark in _LLAMA.finditer(text):
        calls: list[Written] = []
        place = mark.end()
        while True:
            value, end = _json_at(text, place)
            call = _call(value)
            if call is None or not {"arguments", "parameters"} & value.keys():
                break
            calls.append(Written(mark.start() if not calls else place, end, call))
            rest = text[end:].lstrip("; \n")
            if not rest:
                return calls
            place = len(text) - len(rest)
    return []


FORMS = (
    CallForm("hermes", _hermes),
    CallForm("function", _function),
    CallForm("mistral", _mistral),
    CallForm("llama", _llama),
    CallForm("glm", _glm),
    CallForm("deepseek", _deepseek),
)
"""`hermes`: Qwen 2.5 and 3, Hermes, SmolLM3. `function`: Qwen3-Coder, Qwen3.5. `llama`: Llama
3.1 and later. `glm`: GLM 4.5 and later. `deepseek`: DeepSeek V3 and R1."""


def _call(value: Any) -> Call | None:
    """A call from an object with a name and arguments under one of their two keys."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    return Call(value["name"], {} if arguments is None else arguments)


def _json_at(text: str, place: int) -> tuple[Any, int]:
    """The JSON value that starts at a place, and its end; (None, end of text) if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, len(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
