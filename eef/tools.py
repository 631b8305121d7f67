"""Tools: what an agent can call, and a turn with tool calls as text.

An agent speaks in one of two ways. In ReAct, it writes `Thought: …` and `Action: …`. With tools, it
writes text and calls, each with a name and arguments. Records hold either as plain text:

- A *completion* with calls is its text, then one block per call, regardless of its model's form:

      I look for it.
      <tool_call>
      {"name": "search", "arguments": {"query": "red mug"}}
      </tool_call>

- The *action* of a call is `search[red mug]` if the tool takes one text, and otherwise
  `refund[{"order": "O-1", "amount": 5}]`. The action of several calls is `{"calls": [actions]}`.
- An invalid call becomes `format_error[reason]`. The environment does not see it.
- The *observation* after several calls has one `<tool_response>` block per result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from eef.config import most_similar
from eef.errors import EnvError
from eef.thoughts import drop_thoughts

FORMAT_ERROR_ACTION = "format_error"
"""The name of the action of an invalid call; no tool can have it."""

LONGEST_ARGUMENTS = 100_000
"""Characters of a call's arguments, as JSON; longer ones are a format error."""

DEEPEST_ARGUMENTS = 50
"""Levels of objects and lists in a call's arguments; deeper ones are a format error."""

_LONGEST_REASON = 300
_NAME = re.compile(r"[A-Za-z][\w-]{0,63}")
_BLOCK = r"<tool_call>\n\{[^\n]*\}\n</tool_call>"
_BLOCKS = re.compile(rf"(?:(?:\A|\n){_BLOCK})+\Z")
_CALL = re.compile(r"<tool_call>\n(\{[^\n]*\})\n</tool_call>")
_RESPONSE = re.compile(r"<tool_response>\n(.*?)\n</tool_response>(?:\n|\Z)", re.S)
_ACTION = re.compile(r"([A-Za-z][\w-]*)\[(.*)\]", re.S)
_SEVERAL = '{"calls": ['


class Call(NamedTuple):
    """A tool call. `arguments` is a JSON value; a valid call has an object."""

    name: str
    arguments: Any


class Turn(NamedTuple):
    """A completion as its text and its calls."""

    text: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that an environment offers. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_record(self) -> dict[str, Any]:
        """The tool as chat APIs and chat templates take it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}

    @property
    def only_text(self) -> str:
        """The name of its only parameter if that is a string, or else empty."""
        properties = self.parameters.get("properties", {})
        names = list(properties)
        is_text = len(names) == 1 and properties[names[0]].get("type") == "string"
        return names[0] if is_text else ""


def tool(name: str, description: str, /, **parameters: Any) -> Tool:
    """A tool from its parameters, all of them required: a type, or a JSON schema.

    >>> tool("close", "Close a ticket.", ticket="integer").parameters["required"]
    ['ticket']
    """
    properties = {
        key: {"type": value} if isinstance(value, str) else value
        for key, value in parameters.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name, description, schema)


@dataclass(frozen=True)
class Toolset:
    """The tools of an environment, and the rules that an agent with tools gets as its prompt.

    A turn of text alone is the action `text_action` with that text; it is a format error if
    `text_action` is empty.

    EnvError if two tools have one name, or if a name or a schema is not valid.
    """

    tools: tuple[Tool, ...]
    text_action: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        names = [each.name for each in self.tools]
        taken = {FORMAT_ERROR_ACTION, self.text_action}
        for name in names:
            if not _NAME.fullmatch(name) or name in taken:
                raise EnvError(
                    f"{name!r} cannot be the name of a tool",
                    hint="use up to 64 letters, digits, `-` and `_`, and no reserved name",
                )
            if names.count(name) > 1:
                raise EnvError(f"two tools are called {name!r}", hint="rename one of them")
        for each in self.tools:
            _check_schema(each)

    def records(self) -> list[dict[str, Any]]:
        """The tools as chat APIs and chat templates take them."""
        return [each.to_record() for each in self.tools]

    def action_of(self, completion: str) -> str:
        """The action of a completion: of its calls, or of its text if it has none. Thought blocks
        are not said to anybody."""
        turn = read_turn(completion)
        if not turn.calls:
            return self._text_action(turn.text)
        actions = [self.action(call) for call in turn.calls]
        return actions[0] if len(actions) == 1 else join_actions(actions)

    def action(self, call: Call) -> str:
        """The action of one call; a format error if it does not fit its tool."""
        problem = self.problem(call)
        if problem:
            return f"{FORMAT_ERROR_ACTION}[{problem}]"
        return _write_action(self._named[call.name], call.arguments)

    def call_of(self, action: str) -> Call | None:
        """The call that an action stands for; None if it stands for none."""
        match = _ACTION.fullmatch(action.strip())
        if match is None or match[1] not in self._named:
            return None
        found, inner = self._named[match[1]], match[2]
        arguments: Any = {found.only_text: inner} if found.only_text else {}
        if not found.only_text and inner.strip():
            try:
                arguments = json.loads(inner)
            except (ValueError, RecursionError):
                return None
        return Call(found.name, arguments)

    def problem(self, call: Call) -> str:
        """Why a call is invalid, in one line; empty if it is valid."""
        found = self._named.get(call.name)
        if found is None:
            similar = most_similar(call.name, list(self._named))
            known = f"did you mean `{similar}`?" if similar else f"the tools are {self._names}"
            return _line(f"unknown tool `{call.name}`; {known}")
        if not isinstance(call.arguments, dict):
            return f"the arguments of `{call.name}` are not a JSON object"
        if _is_deeper(call.arguments, DEEPEST_ARGUMENTS):
            return (
                f"the arguments of `{call.name}` are nested deeper than {DEEPEST_ARGUMENTS} levels"
            )
        if len(json.dumps(call.arguments)) > LONGEST_ARGUMENTS:
            return f"the arguments of `{call.name}` exceed {LONGEST_ARGUMENTS:,} characters"
        error = next(iter(self._validators[call.name].iter_errors(call.arguments)), None)
        if error is None:
            return ""
        place = "".join(f" `{part}`" for part in error.absolute_path)
        return _line(f"`{call.name}`:{place} {error.message}")

    def takes_null(self, name: str, argument: str) -> bool:
        """Whether null is a value of a tool's argument."""
        found = self._named.get(name)
        schema = found.parameters.get("properties", {}).get(argument) if found else None
        return schema is not None and self._validators[name].evolve(schema=schema).is_valid(None)

    def describe(self) -> str:
        """The actions in words, one per line, for agents that write ReAct."""
        return "\n".join(f"{_form(each)}  {each.description}" for each in self._named.values())

    def _text_action(self, text: str) -> str:
        words = drop_thoughts(text).strip()
        if self.text_action and words:
            return f"{self.text_action}[{words}]"
        return f"{FORMAT_ERROR_ACTION}[no tool call found; the tools are {self._names}]"

    @cached_property
    def _named(self) -> dict[str, Tool]:
        """The tools by name, with the one that a turn of text alone calls."""
        named = {each.name: each for each in self.tools}
        if self.text_action:
            named[self.text_action] = tool(self.text_action, "Say this.", text="string")
        return named

    @cached_property
    def _names(self) -> str:
        return ", ".join(f"`{each.name}`" for each in self.tools)

    @cached_property
    def _validators(self) -> dict[str, Any]:
        return {name: _validator(each.parameters) for name, each in self._named.items()}


def read_turn(completion: str) -> Turn:
    """The text and the calls of a completion. Blocks that are not at its end are text.

    >>> read_turn(write_turn("On.", [Call("go", {"to": "inn"})]))
    Turn(text='On.', calls=(Call(name='go', arguments={'to': 'inn'}),))
    """
    blocks = _BLOCKS.search(completion) if completion.endswith("</tool_call>") else None
    if blocks is None:
        return Turn(completion, ())
    calls = []
    for found in _CALL.finditer(completion, blocks.start()):
        try:
            record = json.loads(found[1])
            calls.append(Call(record["name"], record["arguments"]))
        except (ValueError, KeyError, RecursionError):
            return Turn(completion, ())
    return Turn(completion[: blocks.start()], tuple(calls))


def write_turn(text: str, calls: Sequence[Call]) -> str:
    """The completion of a text and calls."""
    blocks = [f"<tool_call>\n{_json(call._asdict())}\n</tool_call>" for call in calls]
    return "\n".join([*([text] if text else []), *blocks])


def join_actions(actions: Sequence[str]) -> str:
    """The action of several calls.

    >>> join_actions(["open[1]", "close[1]"])
    '{"calls": ["open[1]", "close[1]"]}'
    """
    return json.dumps({"calls": list(actions)}, ensure_ascii=False)


def split_action(action: str) -> list[str]:
    """The actions of the calls of a turn; the action itself if it is not of several calls."""
    if not action.startswith(_SEVERAL):
        return [action]
    try:
        actions = json.loads(action)["calls"]
    except (ValueError, RecursionError):
        return [action]
    return actions if actions and all(isinstance(each, str) for each in actions) else [action]


def format_error_in(action: str) -> str | None:
    """The reason of the format error that an action is; None for any other action.

    >>> format_error_in("format_error[unknown tool `serch`]"), format_error_in("search[mug]")
    ('unknown tool `serch`', None)
    """
    match = _ACTION.fullmatch(action)
    return match[2] if match and match[1] == FORMAT_ERROR_ACTION else None


def is_format_error(action: str) -> bool:
    """Whether a turn had no action: none was found, or no call was valid."""
    return all(not each or format_error_in(each) is not None for each in split_action(action))


def join_results(results: Sequence[str]) -> str:
    """The observation after several calls."""
    if len(results) == 1:
        return results[0]
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


def split_results(observation: str, count: int) -> list[str]:
    """The results of `count` calls in an observation; it alone if it does not hold that many.

    >>> split_results(join_results(["open", "closed"]), 2)
    ['open', 'closed']
    """
    results = [found[1] for found in _RESPONSE.finditer(observation)] if count > 1 else []
    return results if results and join_results(results) == observation else [observation]


def _write_action(tool: Tool, arguments: Mapping[str, Any]) -> str:
    if tool.only_text and tool.only_text in arguments:
        return f"{tool.name}[{arguments[tool.only_text]}]"
    order = [*tool.parameters.get("properties", {}), *arguments]
    ordered = {key: arguments[key] for key in dict.fromkeys(order) if key in arguments}
    return f"{tool.name}[{_plain_json(ordered) if ordered else ''}]"


def _form(tool: Tool) -> str:
    names = list(tool.parameters.get("properties", {}))
    if tool.only_text or not names:
        return f"{tool.name}[{''.join(names)}]"
    return f"{tool.name}[{{{', '.join(json.dumps(name) + ': …' for name in names)}}}]"


def _check_schema(tool: Tool) -> None:
    from jsonschema.exceptions import SchemaError

    try:
        _validator(tool.parameters).check_schema(dict(tool.parameters))
    except SchemaError as error:
        raise EnvError(
            f"the parameters of the tool {tool.name!r} are not a JSON schema: {error.message}",
            hint="a type is one of `string`, `integer`, `number`, `boolean`, `array` and `object`",
        ) from None
    if tool.parameters.get("type") != "object":
        raise EnvError(
            f"the parameters of the tool {tool.name!r} are not of type `object`",
            hint='write `{"type": "object", "properties": {…}}`',
        )
    for _ in _external_references(tool.parameters):
        raise EnvError(f"the parameters of the tool {tool.name!r} refer to another document")


def _external_references(schema: Any) -> Iterator[str]:
    """The references of a schema to other documents, which would be downloaded."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            yield reference
        for value in schema.values():
            yield from _external_references(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _external_references(value)


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(dict(schema))


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value has more than `levels` levels of objects and lists. Not recursive."""
    level = [value]
    for _ in range(levels):
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _json(value: Any) -> str:
    """JSON in one line that holds no tag."""
    return _plain_json(value).replace("<", "\\u003c")


def _plain_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    """A text in one line, cut if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"
