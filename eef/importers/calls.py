"""Tool calls in their public forms → calls, and the actions of a kind of agent.

A call is an object with a name and arguments, or the JSON text of one. It is found in

- `tool_calls`: a list of calls, one call, or the JSON text of either; with the call in `function`;
- `function_call`: the older field of the OpenAI API, and the turns of that role in ShareGPT rows;
- content parts of type `tool_use`, or with the call in `functionCall` (Gemini) or `toolUse`
  (Bedrock); their results are parts of type `tool_result`, `functionResponse` or `toolResult`;
- items of OpenAI's Responses API, of type `function_call` or `custom_tool_call`;
- a text that is a JSON object `{"thought", "function_name", "arguments"}` or `{"name",
  "parameters"}`;
- a text with calls as models write them (`eef.call_forms`), such as `<tool_call>…</tool_call>`;
- a text in ReAct whose action is a name and whose `Action Input:` its argument, or whose action is
  a JSON object `{"action", "action_input"}` (LangChain).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eef.call_forms import FORMS
from eef.errors import ConfigError
from eef.importers.episode import ParseError, first_value
from eef.react import find_action, format_completion, parse_completion
from eef.thoughts import drop_thoughts
from eef.tools import Call, Toolset, read_turn, write_turn
from eef.trajectory import Step

_NAMES = ("name", "function_name", "tool_name", "action")
_ARGUMENTS = ("arguments", "args", "parameters", "input", "action_input")
_ARGUMENTS_IN_TEXT = {"arguments", "parameters"}
_CALL_PARTS = ("functionCall", "toolUse")  # keys of content parts with a call in them
_RESULT_PARTS = ("functionResponse", "toolResult")
_HOLDERS = ("function", "custom", *_CALL_PARTS)
_RESULT_IDS = ("tool_call_id", "call_id", "tool_use_id", "toolUseId")
_ACTION_INPUT = re.compile(
    r"^[ \t]*[*_]{0,2}Action Input[*_]{0,2}:[*_]{0,2}\s*(.*)", re.I | re.M | re.S
)
_AFTER_INPUT = re.compile(r"^[ \t]*[*_]{0,2}(?:Observation|Thought|Action)[*_]{0,2}:", re.I | re.M)
_FENCED_INPUT = re.compile(r"```[\w+-]*\n(.*?)\n?```", re.S)
_FENCED = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.S)
_RULE = re.compile(r"((?:[^\\=]|\\.)+)=(.*)", re.S)
_ESCAPED = r"write `\=` for an equals sign in the pattern"
_THOUGHT = re.compile(r"^\s*Thought:\s*", re.I)


def calls_of(
    message: Mapping[str, Any], content: Any, *, is_call: bool = False
) -> tuple[Any, list[Call]]:
    """The content of an agent's message without its tool calls, and these.

    A call that two fields have is one. With `is_call`, the content itself is the JSON text of a
    call. ParseError if a call has no name.

    >>> call = {"name": "search", "arguments": '{"query": "mug"}'}
    >>> calls_of({"tool_calls": [{"function": call}], "function_call": call}, "A mug.")
    ('A mug.', [Call(name='search', arguments={'query': 'mug'})])
    """
    given = _listed(message.get("function_call"))
    if is_call:
        content, given = None, [*given, content]
    if isinstance(content, list):
        given += [part for part in content if _is_call(part)]
        content = [part for part in content if not _is_call(part)]
    calls = [_call(item) for item in _listed(message.get("tool_calls"))]
    if isinstance(content, str) and not given and not calls:
        content, given = _calls_in_text(content)
        return content, [_call(item) for item in given]
    again = [_call(item) for item in given]
    return content, [*calls, *(call for call in again if call not in calls)]


def call_ids(message: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of a message's tool calls, or of the call that it is the result of.

    >>> call_ids({"role": "tool", "tool_call_id": "call_1", "content": "3"})
    ('call_1',)
    """
    content = message.get("content", message.get("parts"))
    parts = content if isinstance(content, list) else []
    holders = [
        *(part for part in parts if _is_call(part) or is_result(part)),
        *_listed(message.get("tool_calls")),
    ]
    inner = [
        each[key] for each in holders if (key := _holder(each, (*_CALL_PARTS, *_RESULT_PARTS)))
    ]
    found = [
        first_value(each, (*_RESULT_IDS, "id"))
        for each in (inner or holders)
        if isinstance(each, dict)
    ]
    ids = found or [first_value(message, _RESULT_IDS)]
    return tuple(dict.fromkeys(map(str, ids))) if None not in ids else ()


class ActionMap:
    r"""Rewrites of actions: each is `PATTERN=REPLACEMENT`, a regular expression and its result.

    The pattern ends at the first `=` without a backslash before it; `\=` in it stands for `=`.
    ConfigError for a rule of another form. The first pattern that matches a whole action counts.
    `asked` is the number of actions that there were.

    >>> rename = ActionMap([r"find\((.*)\)=search[\1]"])
    >>> rename("find(mug)"), rename("back"), rename.unused
    ('search[mug]', 'back', [])
    """

    def __init__(self, rules: Iterable[str] = ()) -> None:
        self._rules: dict[str, tuple[re.Pattern[str], str]] = {}
        self._used: set[str] = set()
        self.asked = 0
        for rule in rules:
            parts = _RULE.fullmatch(rule)
            if parts is None:
                raise ConfigError(
                    f"`--map {rule}` is not `PATTERN=REPLACEMENT`",
                    hint=rf"for example `--map 'find\((.*)\)=search[\1]'`; {_ESCAPED}",
                )
            try:
                pattern = re.sub(
                    r"\\(.)",
                    lambda found: "=" if found[1] == "=" else found[0],
                    parts[1],
                    flags=re.S,
                )
                compiled = re.compile(pattern, re.S)
                compiled.sub(parts[2], "")
            except (re.error, IndexError) as error:
                raise ConfigError(
                    f"`--map {rule}` is not a valid regular expression: {error}", hint=_ESCAPED
                ) from None
            self._rules[rule] = compiled, parts[2]

    @property
    def unused(self) -> list[str]:
        """The rules that have rewritten no action so far."""
        return [rule for rule in self._rules if rule not in self._used]

    def __call__(self, action: str) -> str:
        self.asked += 1
        for rule, (pattern, replacement) in self._rules.items():
            match = pattern.fullmatch(action)
            if match:
                self._used.add(rule)
                return match.expand(replacement)
        return action


def as_actions(
    steps: Sequence[Step], tools: Toolset | None, action_map: Callable[[str], str] = lambda a: a
) -> tuple[Step, ...]:
    """The steps of an episode with the actions of an environment.

    With `tools`, calls remain calls, and a turn of only text is the action that the environment
    defines for it. Without `tools`, calls become actions in ReAct, and a turn with several calls is
    a ParseError.
    """
    return tuple(_as_action(step, tools, action_map) for step in steps)


def _as_action(step: Step, tools: Toolset | None, action_map: Callable[[str], str]) -> Step:
    turn = read_turn(step.completion)
    if not turn.calls:
        span = find_action(step.completion)
        if span is None:
            action = tools.action_of(step.completion) if tools and tools.text_action else ""
            return replace(step, action=action)
        action = action_map(step.action)
        text = step.completion[: span.start] + action + step.completion[span.end :]
        if parse_completion(text)[1] != action:
            made = "" if action == step.action else " that `--map` produces"
            raise ParseError(f"no turn in ReAct can hold the action {action!r}{made}")
        return replace(step, completion=text, action=action)
    if tools is None:
        block, text = _split_reasoning(turn.text)
        completion = block + as_completion(text, list(turn.calls), action_map)
        return replace(step, completion=completion, action=parse_completion(completion)[1] or "")
    calls = [_mapped(_fitting(call, tools), tools, action_map) for call in turn.calls]
    completion = write_turn(turn.text, calls)
    return replace(step, completion=completion, action=tools.action_of(completion))


def _mapped(call: Call, tools: Toolset, action_map: Callable[[str], str]) -> Call:
    action = call_as_action(*call)
    mapped = action_map(action)
    return call if mapped == action else tools.call_of(mapped) or call


def _fitting(call: Call, tools: Toolset) -> Call:
    """A call without the nulls that its tool does not take.

    Some data sets give each call the arguments of all calls, with nulls for those of others.
    """
    if not isinstance(call.arguments, dict):
        return call
    kept = {
        key: value
        for key, value in call.arguments.items()
        if value is not None or tools.takes_null(call.name, key)
    }
    without = Call(call.name, _without_nulls(kept))
    call = Call(call.name, kept)
    return without if tools.problem(call) and not tools.problem(without) else call


def _split_reasoning(text: str) -> tuple[str, str]:
    """The thought blocks at the start of a text, with what separates them, and the rest."""
    rest = drop_thoughts(text)
    cut = len(text) - len(rest) if text.endswith(rest) else 0
    return text[:cut], text[cut:]


def as_completion(
    text: str, calls: list[Call], action_map: Callable[[str], str] = lambda a: a
) -> str:
    """The completion of a turn with a tool call; the text is its thought.

    ParseError if there are several calls, or if no completion holds this text and this action.
    """
    if len(calls) > 1:
        raise ParseError(f"{len(calls)} tool calls in one turn; a step has one action")
    ((name, arguments),) = calls
    thought = _THOUGHT.sub("", text).strip()
    on_one_line = " ".join(thought.split())  # label lines in it are not labels of the turn
    written_as = (call_as_action(name, arguments), _json_action(name, arguments))
    for action in map(action_map, written_as):
        for written in (thought, on_one_line):
            completion = format_completion(written, action)
            if parse_completion(completion)[1] == action:
                return completion
    raise ParseError("a tool call that cannot be separated from the text around it")


def call_as_action(name: str, arguments: Any) -> str:
    """The action of a tool call: `name[value]` for a single argument, `name[{json}]` for several.

    Arguments that are null are omitted: data sets give each call the arguments of all calls.

    >>> call_as_action("search", '{"query": "red mug"}'), call_as_action("buy", {})
    ('search[red mug]', 'buy[]')
    >>> call_as_action("search", {"query": "red mug", "label": None})
    'search[red mug]'
    """
    arguments = _without_nulls(_arguments(arguments))
    values = list(arguments.values()) if isinstance(arguments, dict) else [arguments]
    if len(values) == 1 and isinstance(values[0], str | int | float):
        return f"{name}[{values[0]}]"
    return f"{name}[{json.dumps(arguments, ensure_ascii=False) if values else ''}]"


def _json_action(name: str, arguments: Any) -> str:
    """The action with its arguments as JSON, which has no line ends."""
    arguments = _without_nulls(_arguments(arguments))
    return f"{name}[{json.dumps(arguments, ensure_ascii=False)}]"


def _arguments(arguments: Any) -> Any:
    """The arguments as a JSON value; a text that is not JSON stays a text."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return arguments
    return {} if arguments is None else arguments


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _listed(value: Any) -> list[Any]:
    """The calls in the value of a field: a list, one call, or the JSON text of either."""
    if isinstance(value, str):
        value = _parsed(value)
    items = value if isinstance(value, list) else [value]
    return [item for item in items if _has_value(item)]


def _has_value(item: Any) -> bool:
    """Whether a JSON value holds anything but nulls; data sets fill missing objects with nulls."""
    if isinstance(item, dict):
        return any(_has_value(each) for each in item.values())
    return item is not None


def _call(item: Any) -> Call:
    call = _parsed(item) if isinstance(item, str) else item
    outer = call if isinstance(call, dict) else {}
    function = first_value(outer, _HOLDERS)
    if isinstance(function, str) and isinstance(_parsed(function), dict):
        function = _parsed(function)
    if isinstance(function, str):  # inspect: {"function": name, "arguments": {…}}
        function = {**outer, "name": function}
    inner = function if isinstance(function, dict) else outer
    name = first_value(inner, _NAMES)
    if not isinstance(name, str) or not name:
        raise ParseError("a tool call has no function name")
    return Call(name, _arguments(first_value(inner, _ARGUMENTS)))


def _calls_in_text(text: str) -> tuple[str, list[Any]]:
    """The text of a turn without the calls written in it, and these. Thought blocks hold none."""
    block, rest = _split_reasoning(text)
    if call := _call_in_react(rest):
        return block + call[0], call[1]
    action = find_action(rest)
    for form in FORMS:
        written = form.find(rest, {})
        if action is not None and (not written or written[0].start != action.start):
            continue  # the turn's action is what its label says, not a call that it mentions
        if written and all(each.call for each in written):
            for each in reversed(written):
                rest = rest[: each.start] + rest[each.end :]
            return block + rest.strip(), [each.call._asdict() for each in written if each.call]
    fenced = _FENCED.fullmatch(rest)
    row = _parsed(fenced[1] if fenced else rest)
    if isinstance(row, dict) and first_value(row, _NAMES) and _ARGUMENTS_IN_TEXT & row.keys():
        return block + str(row.get("thought") or ""), [row]
    return text, []


def _call_in_react(text: str) -> tuple[str, list[Any]] | None:
    """The text and calls of a turn whose action has its argument after it (`Action Input:`), on one
    or more lines or in a code fence, or is a JSON object; None for any other turn.

    >>> _call_in_react("Thought: a mug.\\nAction: search\\nAction Input: red mug")
    ('a mug.', [{'name': 'search', 'arguments': 'red mug'}])
    """
    thought, action = parse_completion(text)
    if action is None:
        return None
    row = _parsed(action)
    if isinstance(row, dict):  # an object with other keys is an action of its environment
        return (thought, [row]) if {"action", "action_input"} <= row.keys() else (text, [])
    span = find_action(text)
    argument = _ACTION_INPUT.search(text, span.end if span else 0)
    if argument is None or not re.fullmatch(r"[\w. -]+", action):
        return None
    value = _AFTER_INPUT.split(argument[1], maxsplit=1)[0].strip()
    fenced = _FENCED_INPUT.fullmatch(value)
    return thought, [{"name": action, "arguments": fenced[1] if fenced else value}]


def result_text(part: Any) -> Any:
    """A part with the result of a call as a text part; any other part unchanged."""
    if not is_result(part):
        return part
    holder = _holder(part, _RESULT_PARTS)
    inner = part[holder] if holder else part
    content = inner.get("content", inner.get("response"))
    texts = [_result(each) for each in (content if isinstance(content, list) else [content])]
    strings = [text for text in texts if text is not None]
    if len(strings) < len(texts):
        raise ValueError(f"a part that is not text: {holder or 'tool_result'!r}")
    return {"type": "text", "text": "".join(strings)}


def _result(value: Any) -> str | None:
    """The text of one part of a result; a JSON object becomes its text. None if it has neither."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    data = value.get("json") if isinstance(value, dict) and "json" in value else value
    is_object = isinstance(data, dict) and "type" not in data
    return json.dumps(data, ensure_ascii=False) if is_object else None


def is_result(part: Any) -> bool:
    """Whether a part of a content is the result of a call."""
    return _type(part) == "tool_result" or _holder(part, _RESULT_PARTS) is not None


def _is_call(part: Any) -> bool:
    return _type(part) == "tool_use" or _holder(part, _CALL_PARTS) is not None


def _holder(part: Any, keys: tuple[str, ...]) -> str | None:
    """The first of `keys` under which a part has an object."""
    if not isinstance(part, dict):
        return None
    return next((key for key in keys if isinstance(part.get(key), dict)), None)


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _parsed(text: str) -> Any:
    """The value of a JSON text, or None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
