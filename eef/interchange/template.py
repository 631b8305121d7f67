"""Template: a model's chat template written anew with marks around what is trained, for trainers that read such marks.

TRL takes the stretch between `{% generation %}` and `{% endgeneration %}` for trained. The new template puts it around
the assistant messages whose `train` is true, end of turn included. It is made of the texts that the model's own
template puts before, between and behind messages, and holds where it gives the same text for every lesson: else there
is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from eef.interchange.lessons import Lesson

_TALK = [("system", "\u2402"), ("user", "\u2403"), ("assistant", "\u2404"), ("user", "\u2405")]


def marked_template(tokenizer: Any, end: str, lessons: Iterable[Lesson]) -> str | None:
    """The marked template of a tokenizer, or None where its own does more than put fixed texts around messages.

    `end` is the text that ends a turn.
    """
    frame = _frame(tokenizer)
    if frame is None or end not in frame["after_assistant"]:
        return None
    cut = frame["after_assistant"].index(end) + len(end)
    template = _write(frame, frame["after_assistant"][:cut], frame["after_assistant"][cut:])
    for lesson in lessons:
        if _text(tokenizer, lesson, template) != _text(tokenizer, lesson, None):
            return None
    return template


def _frame(tokenizer: Any) -> dict[str, str] | None:
    """The fixed texts around messages, found by rendering a talk of marks."""
    text = tokenizer.apply_chat_template(_messages(_TALK), tokenize=False)
    alone = tokenizer.apply_chat_template(_messages(_TALK[1:]), tokenize=False)
    asking = tokenizer.apply_chat_template(_messages(_TALK), tokenize=False, add_generation_prompt=True)
    marks = [mark for _, mark in _TALK]
    if any(text.count(mark) != 1 for mark in marks) or not asking.startswith(text):
        return None
    before_system, rest = text.split(marks[0])
    system_user, rest = rest.split(marks[1])
    user_assistant, rest = rest.split(marks[2])
    assistant_user, after_user = rest.split(marks[3])
    before_user = alone.split(marks[1])[0]
    asks = asking[len(text) :]
    if not user_assistant.startswith(after_user) or not system_user.endswith(before_user):
        return None
    if not assistant_user.endswith(before_user) or user_assistant[len(after_user) :] != asks:
        return None
    return {
        "before_system": before_system, "after_system": system_user.removesuffix(before_user),
        "before_user": before_user, "after_user": after_user, "asks": asks,
        "after_assistant": assistant_user.removesuffix(before_user),
    }


def _write(frame: dict[str, str], end: str, after: str) -> str:
    """The template; fixed texts stand in it as Jinja strings, which are written like JSON's."""
    told = {name: json.dumps(text, ensure_ascii=False) for name, text in {**frame, "end": end, "after": after}.items()}
    put = {name: "{{ " + text + " }}" for name, text in told.items()}
    said = "{{ message['content'] }}" + put["end"]
    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}" + put["before_system"] + "{{ message['content'] }}" + put["after_system"]
        + "{% elif message['role'] == 'user' %}" + put["before_user"] + "{{ message['content'] }}" + put["after_user"]
        + "{% elif message['role'] == 'assistant' %}" + put["asks"]
        + "{% if message['train'] %}{% generation %}" + said + "{% endgeneration %}{% else %}" + said + "{% endif %}"
        + put["after"] + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}" + put["asks"] + "{% endif %}"
    )


def _text(tokenizer: Any, lesson: Lesson, template: str | None) -> str:
    messages = [{**message, "train": weight != 0} for message, weight in lesson.weighted()]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    return text


def _messages(talk: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in talk]
