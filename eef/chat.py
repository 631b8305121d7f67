"""Steps → messages: the one conversation builder for acting and training; and the parser of turns.

A conversation is `[system?] user assistant user assistant …`. Each user message is an observation,
each assistant message a completion (`Thought: …\\nAction: …`). A method's prompt suffix is appended
to the environment's prompt in the system message.

Collecting, rollouts, imports, replays and the loss mask find the action of a completion in ReAct by
`find_action`. No other module parses ReAct; `eef.tools` reads turns with tool calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from eef.note import Advice, Shown
from eef.policy import Conversation, SampledText
from eef.thoughts import (
    ACTION_LABEL,
    LABEL_END,
    LABEL_PREFIX,
    THOUGHT_TAG,
    drop_thoughts,
    thought_blocks,
)
from eef.tools import (
    Toolset,
    format_error_in,
    read_turn,
    split_action,
    split_results,
    write_turn,
)
from eef.trajectory import Step
from eef.utils.text import replace_surrogates

Thoughts = Literal["kept", "dropped"]
"""Whether the conversations that a model acts on and is trained on hold thought blocks."""

_OBSERVATION = re.compile(f"{LABEL_PREFIX}observation{LABEL_END}", re.I | re.M)
_THOUGHT = re.compile(f"{LABEL_PREFIX}(?P<word>thought){LABEL_END}[*_`]{{0,3}}[ \\t]*", re.I | re.M)
_TAGGED_ACTION = re.compile(r"<action>((?:(?!<action>).)*?)</action>", re.I | re.S)
_INLINE_ACTION = re.compile(r"\baction:", re.I)
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]*_`]*\s*$")
_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*$", re.M)
_BRACKET = re.compile(r"[\[({]")
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class ActionSpan(NamedTuple):
    """The place of the action in a completion, as indices.

    The label `Action:` starts at `label`, and the action is `completion[start:end]`. `stop` is the
    end of the action's last line, after closing marks such as `**`.
    """

    label: int
    start: int
    end: int
    stop: int


def build_conversation(
    prompt: str,
    steps: Sequence[Step],
    observation: str | None = None,
    *,
    prompt_suffix: str = "",
    thoughts: Thoughts = "kept",
    tools: Toolset | None = None,
    advice: Shown = "none",
) -> Conversation:
    """The messages of `steps`; with the current `observation`, the prompt for the next completion.

    With `tools`, the agent calls tools: completions that hold an action in ReAct hold calls instead
    (`eef.tools`), and the result of a call is a message of role `tool`. Without, it is the other
    way round.

    With `thoughts="dropped"`, the messages have no thought blocks; the steps keep theirs. A lone
    surrogate becomes U+FFFD, because no tokenizer or server accepts it. A completion with recorded
    token ids is a `SampledText`. `advice` is the advice that is shown after the observations,
    "last" that of the last step.

    >>> build_conversation("You shop.", [], "Page 1", prompt_suffix="Succeed.")[0]
    {'role': 'system', 'content': 'You shop.\\n\\nSucceed.'}
    """
    system = "\n\n".join(part for part in (prompt, prompt_suffix) if part)
    messages: Conversation = [{"role": "system", "content": system}] if system else []
    calls = 0
    for number, step in enumerate(steps, start=1):
        messages += _observed(step.observation, calls)
        if advice == "all" or (advice == "last" and number == len(steps)):
            messages = with_advice(messages, step.advice)
        completion = step.completion if thoughts == "kept" else drop_thoughts(step.completion)
        completion = (
            as_calls(completion, step.action, tools) if tools else as_react(completion, step.action)
        )
        calls = len(read_turn(completion).calls) if tools else 0
        if step.tokens is not None and completion == step.completion:
            completion = SampledText(completion, step.tokens)
        messages.append({"role": "assistant", "content": completion})
    if observation is not None:
        messages += _observed(observation, calls)
    for message in messages:
        if not isinstance(message["content"], SampledText):
            message["content"] = replace_surrogates(message["content"])
    return messages


def with_advice(conversation: Conversation, advice: Sequence[Advice]) -> Conversation:
    """A conversation that ends in an observation, with advice after it.

    >>> observed = [{"role": "user", "content": "Page 1"}]
    >>> with_advice(observed, [Advice(role="reasoner", text="Search first.")])[0]["content"]
    'Page 1\\n\\nAdvice: Search first.'
    """
    if not advice:
        return conversation
    blocks = [conversation[-1]["content"]]
    for number, each in enumerate(advice, start=1):
        if each.candidate:
            blocks.append(f"Proposal {number}:\n{each.candidate}\nCritique {number}: {each.text}")
        else:
            blocks.append(f"Advice: {each.text}")
    return [*conversation[:-1], {**conversation[-1], "content": "\n\n".join(blocks)}]


def _observed(observation: str, calls: int) -> Conversation:
    """The messages of an observation after a turn with some calls."""
    if not calls:
        return [{"role": "user", "content": observation}]
    results = split_results(observation, calls)
    return [{"role": "tool", "content": result} for result in results]


def as_calls(completion: str, action: str, tools: Toolset) -> str:
    """A completion in ReAct as text and calls; any other completion unchanged.

    An action that is not a call of `tools` remains text.

    >>> from eef.tools import tool
    >>> search = Toolset((tool("search", "Find products.", query="string"),))
    >>> print(as_calls("Thought: a mug.\\nAction: search[mug]", "search[mug]", search))
    a mug.
    <tool_call>
    {"name": "search", "arguments": {"query": "mug"}}
    </tool_call>
    """
    if read_turn(completion).calls or not action:
        return completion
    span = find_action(completion)
    if span is None or completion[span.start : span.end] != action:
        return completion
    calls = [tools.call_of(each) for each in split_action(action)]
    if any(call is None for call in calls):
        return completion
    before = completion[: span.label]
    blocks = thought_blocks(before)
    end = blocks[-1][1] if blocks else 0
    text = before[:end] + _THOUGHT.sub("", _FENCE.sub("", before[end:]), count=1).rstrip()
    text_calls = [call for call in calls if call and call.name == tools.text_action]
    if text_calls:  # the thought is not for the user, unless it is in a block of its own
        words = text_calls[0].arguments["text"]
        return "\n\n".join(part for part in (before[:end].strip(), words) if part)
    return write_turn(text, [call for call in calls if call])


def as_react(completion: str, action: str) -> str:
    """A completion with calls in ReAct; any other completion unchanged.

    >>> from eef.tools import Call
    >>> as_react(write_turn("A mug.", [Call("search", {"query": "mug"})]), "search[mug]")
    'Thought: A mug.\\nAction: search[mug]'
    """
    turn = read_turn(completion)
    end = len(turn.text) - len(drop_thoughts(turn.text))
    words = turn.text[end:].strip()
    if not turn.calls and words and action.endswith(f"[{words}]"):  # words to the user
        if parse_completion(completion)[1] is not None:
            return completion
        return turn.text[:end] + format_completion("", action)
    if not turn.calls or format_error_in(action) is not None:
        return completion
    return turn.text[:end] + format_completion(" ".join(turn.text[end:].split()), action)


def find_action(completion: str) -> ActionSpan | None:
    """The place of a completion's action, or None if it has none.

    1. Thought blocks (`<think>…</think>` and the like) hold no action. A block without its end tag
       extends to the end of the text; one without its start tag begins at the start of the text.
    2. The action follows the last line that begins with `Action:`, in any case, whatever is before
       it. List and quote marks, emphasis (`**Action:**`) and code fences are ignored.
    3. If there is no such line, the action follows a label inside a line. In a text that begins
       with `Thought:` this is the first `action:` in the same case (`Thought: so. Action: left`,
       `thought: so. action: left`), or else the first after the end of a sentence. In any other
       text it is the first `Action:` after the end of a sentence.
    4. Without any label, the action is the content of the last `<action>…</action>`.
    5. A line that begins with `Observation:` after an action is invented: it is ignored, and so is
       everything after it.

    The action is the rest of the line, or the next line if that is blank. One whose first bracket
    is not closed there continues to the closing bracket, if that comes before a line that begins
    with `Thought:` or `Observation:`.

    >>> def action(text):
    ...     span = find_action(text)
    ...     return span and text[span.start : span.end]
    >>> action("<think>Action: up?</think>I go left.\\n**Action:** left")
    'left'
    >>> action("Thought: my next action: a search.\\nAction: search[mug]\\nObservation: none")
    'search[mug]'
    >>> action("thought: none fits. action: click[next >]")
    'click[next >]'
    >>> action("<think>Up?</think><action>left</action>")
    'left'
    >>> action("Action: reply[Dear customer,\\nyour mug [red] is here.]\\nBye")
    'reply[Dear customer,\\nyour mug [red] is here.]'
    >>> action("Thought: the best action: refund it."), action("<think>\\nAction: left")
    (None, None)
    """
    text = _mask_thoughts(completion)
    invented = [match.start() for match in _OBSERVATION.finditer(text)]
    for end in (*invented, len(text)):
        span = (
            _action_of_lines(text[:end])
            or _action_inside_line(text[:end])
            or _action_in_tags(text[:end])
        )
        if span is not None:
            return span
    return None


def parse_completion(completion: str) -> tuple[str, str | None]:
    """(thought, action) of a completion; the action is None if there is none. See `find_action`.

    The thought is all text before the action, without tags, fences and its label.

    >>> parse_completion("Thought: red fits.\\nAction: click[red]")
    ('red fits.', 'click[red]')
    >>> parse_completion("<think>Red?</think>\\nThought: red fits.\\nAction: click[red]")
    ('Red?\\nred fits.', 'click[red]')
    >>> parse_completion("I would buy it")
    ('I would buy it', None)
    """
    span = find_action(completion)
    if span is None:
        return completion.strip(), None
    before = completion[: span.label]
    if thought_blocks(before):
        before = re.sub(r"\n{3,}", "\n\n", THOUGHT_TAG.sub("", before))
    thought = _THOUGHT.sub("", _FENCE.sub("", before), count=1).strip()
    return thought, completion[span.start : span.end]


def thought_of(completion: str) -> str:
    """The text of a completion besides its action, in ReAct or with tool calls.

    >>> from eef.tools import Call
    >>> thought_of(write_turn("A mug.", [Call("search", {"query": "mug"})]))
    'A mug.'
    """
    turn = read_turn(completion)
    return turn.text.strip() if turn.calls else parse_completion(completion)[0]


def cut_completion(completion: str) -> str:
    """A completion up to the end of its action; models may continue and invent observations.

    >>> cut_completion("Thought: red.\\nAction: click[red]\\nObservation: You have clicked red.")
    'Thought: red.\\nAction: click[red]'
    """
    span = find_action(completion)
    if span is None:
        return completion.rstrip()
    fence = _FENCE.match(completion, completion.find("\n", span.stop) + 1 or len(completion))
    is_closing = fence and len(_FENCE.findall(completion, 0, span.stop)) % 2 == 1
    is_next = fence and not completion[span.stop : fence.start()].strip()
    return completion[: fence.end() if fence and is_closing and is_next else span.stop].rstrip()


def drop_unfinished_action(completion: str) -> str:
    """A completion that ended at its maximum length, without an action that may be incomplete.

    An action is complete if it ends by closing its first bracket, or if text follows one that has
    no bracket open.

    >>> drop_unfinished_action("Thought: on.\\nAction: rig")
    'Thought: on.'
    >>> drop_unfinished_action("Thought: on.\\nAction: click[red]")
    'Thought: on.\\nAction: click[red]'
    """
    span = find_action(completion)
    if span is None:
        return completion
    action = completion[span.start : span.end]
    first = _BRACKET.search(action)
    still_open = action.count(first[0]) - action.count(_CLOSING[first[0]]) if first else 0
    is_closed = first is not None and action.endswith(_CLOSING[first[0]])
    if still_open <= 0 and (is_closed or completion[span.stop :].strip()):
        return completion
    return completion[: span.label].rstrip()


def is_blank(completion: str) -> bool:
    """Whether a completion has no text outside thought blocks. Such a turn is never trained."""
    return not drop_thoughts(completion).strip()


def format_completion(thought: str, action: str) -> str:
    """The completion that `parse_completion` reads as this thought and action."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


def read_message(message: Mapping[str, Any]) -> tuple[str, str]:
    """(reasoning, text) of an assistant message as chat APIs write it.

    The content is a string, null, or a list of parts. Reasoning is in `reasoning_content`, in
    `reasoning`, or in parts of type `thinking` or `reasoning`; redacted reasoning is left out.
    ValueError if the content has another form, or a part of another type.

    >>> text = {"type": "text", "text": "Action: go"}
    >>> read_message({"content": [{"type": "thinking", "thinking": "I go on."}, text]})
    ('I go on.', 'Action: go')
    >>> read_message({"content": None, "reasoning_content": "I go on."})
    ('I go on.', '')
    """
    content = message.get("content")
    parts = [_part(part) for part in (content if isinstance(content, list) else [content])]
    fields = [message.get(name) for name in ("reasoning_content", "reasoning")]
    given = [field for field in fields if isinstance(field, str)]
    thoughts = [*given, *(text for is_thought, text in parts if is_thought)]
    thought = "\n".join(dict.fromkeys(each.strip() for each in thoughts if each.strip()))
    return thought, "".join(text for is_thought, text in parts if not is_thought)


def with_reasoning(reasoning: str, text: str) -> str:
    """A completion with the reasoning of its model as a thought block before the text.

    >>> with_reasoning("I go on.", "Action: go")
    '<think>\\nI go on.\\n</think>\\n\\nAction: go'
    """
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text


def _part(part: Any) -> tuple[bool, str]:
    """(whether it is a thought, the text) of one part of a content."""
    if part is None or isinstance(part, str):
        return False, part or ""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind is None and isinstance(part.get("text"), str):  # Gemini, Bedrock
        return bool(part.get("thought")), part["text"]
    if kind == "reference":  # a citation beside the text
        return False, ""
    if kind in ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal"):
        text = part.get(kind) if kind == "refusal" else part.get("text", part.get("value"))
        text = text.get("value") if isinstance(text, Mapping) else text
        if isinstance(text, str):
            return False, text
    if kind in ("thinking", "reasoning", "redacted_thinking"):
        return True, "" if part.get("redacted") else _reasoning(part)
    raise ValueError(f"a part that is not text: {kind!r}")


def _reasoning(part: Mapping[str, Any]) -> str:
    """The text of a reasoning part: a string, or text parts of its own."""
    value = next((part[key] for key in ("thinking", "reasoning", "text") if part.get(key)), "")
    if isinstance(value, list):
        return "".join(_part(each)[1] for each in value)
    return value if isinstance(value, str) else ""


def _mask_thoughts(text: str) -> str:
    """The text with line ends in place of its thought blocks; indices stay the same."""
    for start, end in thought_blocks(text):
        text = text[:start] + "\n" * (end - start) + text[end:]
    return text


def _action_of_lines(text: str) -> ActionSpan | None:
    """The action after the last line that begins with `Action:`."""
    span: ActionSpan | None = None
    for label in ACTION_LABEL.finditer(text):
        if span is None or label.start() >= span.stop:
            marks = "" if label["closed"] else label["marks"]
            span = _action_at(text, label.start(), label.end(), marks) or span
    return span


def _action_inside_line(text: str) -> ActionSpan | None:
    """The action after a label inside a line."""
    thought = _THOUGHT.match(text.lstrip())
    begin = len(text) - len(text.lstrip()) + thought.end() if thought else -1
    same_case, others = [], []
    for label in _INLINE_ACTION.finditer(text):
        if thought and _case(thought["word"]) == _case(label[0]):
            same_case.append(label)
        elif label.start() == begin or _SENTENCE_END.search(text[: label.start()]):
            others += [label] if thought or label[0] == "Action:" else []
    spans = (_action_at(text, each.start(), each.end(), "") for each in (*same_case, *others))
    return next((span for span in spans if span), None)


def _action_in_tags(text: str) -> ActionSpan | None:
    """The action in the last `<action>…</action>` that is not blank."""
    found = [match for match in _TAGGED_ACTION.finditer(text) if match[1].strip()]
    if not found:
        return None
    last, action = found[-1], found[-1][1]
    start = last.start(1) + len(action) - len(action.lstrip())
    return ActionSpan(last.start(), start, start + len(action.strip()), last.end())


def _case(word: str) -> str:
    return "lower" if word.islower() else "upper" if word.isupper() else "title"


def _action_at(text: str, label: int, start: int, marks: str) -> ActionSpan | None:
    """The action after a label that ends at `start`, with the emphasis `marks` still open there."""
    if marks and text.startswith(marks, start):
        start, marks = start + len(marks), ""
    stop = _line_end(text, start)
    while not text[start:stop].strip() or _FENCE.fullmatch(text[start:stop]):
        if stop == len(text):
            return None
        start, stop = stop + 1, _line_end(text, stop + 1)
        if any(each.match(text, start) for each in (_THOUGHT, ACTION_LABEL, _OBSERVATION)):
            return None
    start += len(text[start:stop]) - len(text[start:stop].lstrip())
    stop = max(len(text[:stop].rstrip()), _bracket_end(text, start, stop))
    end = stop
    if marks and text[start:end].endswith(marks):
        end -= len(marks)
    for mark in ("```", "**", "__", "`"):
        if end - start > 2 * len(mark) and text[start:end].startswith(mark):
            inner = len(mark) if text[start:end].endswith(mark) else 0
            start, end = start + inner, end - inner
    return ActionSpan(label, start, end, stop) if end > start else None


def _bracket_end(text: str, start: int, stop: int) -> int:
    """The end of an action whose first bracket is closed after `stop`; 0 if that is not so.

    Only the bracket of a call (`reply[`) or one that begins the action counts.
    """
    first = _BRACKET.search(text, start, stop)
    if first is None or not (first.start() == start or text[first.start() - 1].isalnum()):
        return 0
    limits = [each.search(text, stop) for each in (_THOUGHT, _OBSERVATION)]
    limit = min([found.start() for found in limits if found], default=len(text))
    depth = 0
    for index in range(first.start(), limit):
        depth += (text[index] == first[0]) - (text[index] == _CLOSING[first[0]])
        if depth == 0:
            after = text[index + 1 :]
            marks = len(after) - len(after.lstrip("*_`"))
            return 0 if index < stop else index + 1 + marks
    return 0


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
