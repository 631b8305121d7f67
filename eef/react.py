"""The ReAct format: completions of the form `Thought: …\\nAction: …`, and their parser.

Collecting, rollouts, imports, replays and the loss mask find the action of a completion in ReAct by
`find_action`. No other module parses ReAct; `eef.tools` reads turns with tool calls.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from eef.thoughts import ACTION_LABEL, LABEL_END, LABEL_PREFIX, THOUGHT_TAG, thought_blocks
from eef.tools import read_turn

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
    return drop_labels(before).strip(), completion[span.start : span.end]


def drop_labels(text: str) -> str:
    """The text before an action, without code fences and its first label `Thought:`."""
    return _THOUGHT.sub("", _FENCE.sub("", text), count=1)


def thought_of(completion: str) -> str:
    """The text of a completion besides its action, in ReAct or with tool calls.

    >>> from eef.tools import Call, write_turn
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


def format_completion(thought: str, action: str) -> str:
    """The completion that `parse_completion` reads as this thought and action."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


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
