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

from eef.exporters.examples import RenderedExample

_TALK = [("system", "\u2402"), ("user", "\u2403"), ("assistant", "\u2404"), ("user", "\u2405")]


def marked_template(tokenizer: Any, end: str, lessons: Iterable[RenderedExample]) -> str | None:
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
    """The fixed texts around messages, found by rendering a talk of marks; None where they are not fixed."""
    text, alone, ended = (_render(tokenizer, talk) for talk in (_TALK, _TALK[1:], _TALK[:3]))
    asks = _render(tokenizer, _TALK, add_generation_prompt=True).removeprefix(text)
    if any(text.count(mark) != 1 for _, mark in _TALK):
        return None
    before_system, system_user, user_assistant, assistant_user, after_user = _between(text)
    after_assistant = ended.split(_TALK[2][1])[1]
    before_user = assistant_user.removeprefix(after_assistant)
    begin = alone.split(_TALK[1][1])[0].removesuffix(before_user)
    frame = {
        "begin": begin,
        "before_system": before_system.removeprefix(begin),
        "after_system": system_user.removesuffix(before_user),
        "before_user": before_user,
        "after_user": after_user,
        "asks": asks,
        "after_assistant": after_assistant,
    }
    again = (
        begin + frame["before_system"],
        frame["after_system"] + before_user,
        after_user + asks,
        after_assistant + before_user,
        after_user,
    )
    return (
        frame
        if again == (before_system, system_user, user_assistant, assistant_user, after_user)
        else None
    )


def _between(text: str) -> tuple[str, ...]:
    """The texts before, between and behind the marks."""
    parts = []
    for _, mark in _TALK:
        before, text = text.split(mark)
        parts.append(before)
    return (*parts, text)


def _render(tokenizer: Any, talk: list[tuple[str, str]], **options: Any) -> str:
    messages = [{"role": role, "content": content} for role, content in talk]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


def _write(frame: dict[str, str], end: str, after: str) -> str:
    """The template; fixed texts stand in it as Jinja strings, which are written like JSON's."""
    told = {
        name: json.dumps(text, ensure_ascii=False)
        for name, text in {**frame, "end": end, "after": after}.items()
    }
    put = {name: "{{ " + text + " }}" for name, text in told.items()}
    said = "{{ message['content'] }}" + put["end"]
    return (
        put["begin"] + "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        + put["before_system"]
        + "{{ message['content'] }}"
        + put["after_system"]
        + "{% elif message['role'] == 'user' %}"
        + put["before_user"]
        + "{{ message['content'] }}"
        + put["after_user"]
        + "{% elif message['role'] == 'assistant' %}"
        + put["asks"]
        + "{% if message['train'] %}{% generation %}"
        + said
        + "{% endgeneration %}{% else %}"
        + said
        + "{% endif %}"
        + put["after"]
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}"
        + put["asks"]
        + "{% endif %}"
    )


def _text(tokenizer: Any, lesson: RenderedExample, template: str | None) -> str:
    messages = [{**message, "train": weight != 0} for message, weight in lesson.weighted()]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    return text
