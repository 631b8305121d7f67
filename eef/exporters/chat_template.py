"""Chat template: a model's chat template rewritten with marks around the text that is trained.

TRL trains the text between `{% generation %}` and `{% endgeneration %}`. The marked template puts
these around assistant messages whose `train` is true, end of turn included. It is made of the fixed
texts that the model's own template puts before, between and after messages. It is used only if it
renders every example to the same text as the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from eef.exporters.examples import RenderedExample

_PROBE = [("system", "\u2402"), ("user", "\u2403"), ("assistant", "\u2404"), ("user", "\u2405")]
"""(role, content) of messages whose contents are found again in the rendered text."""


def marked_template(tokenizer: Any, end: str, examples: Iterable[RenderedExample]) -> str | None:
    """The marked template of a tokenizer; `end` is the text that ends a turn.

    None if the tokenizer's own template does more than put fixed texts around messages.
    """
    frame = _frame(tokenizer)
    if frame is None or end not in frame["after_assistant"]:
        return None
    cut = frame["after_assistant"].index(end) + len(end)
    template = _write(frame, frame["after_assistant"][:cut], frame["after_assistant"][cut:])
    for example in examples:
        if _text(tokenizer, example, template) != _text(tokenizer, example, None):
            return None
    return template


def _frame(tokenizer: Any) -> dict[str, str] | None:
    """The fixed texts around messages, found by rendering the probe; None if they are not fixed."""
    text, alone, ended = (_render(tokenizer, probe) for probe in (_PROBE, _PROBE[1:], _PROBE[:3]))
    generation = _render(tokenizer, _PROBE, add_generation_prompt=True).removeprefix(text)
    if any(text.count(content) != 1 for _, content in _PROBE):
        return None
    before_system, system_user, user_assistant, assistant_user, after_user = _between(text)
    after_assistant = ended.split(_PROBE[2][1])[1]
    before_user = assistant_user.removeprefix(after_assistant)
    begin = alone.split(_PROBE[1][1])[0].removesuffix(before_user)
    frame = {
        "begin": begin,
        "before_system": before_system.removeprefix(begin),
        "after_system": system_user.removesuffix(before_user),
        "before_user": before_user,
        "after_user": after_user,
        "generation": generation,
        "after_assistant": after_assistant,
    }
    again = (
        begin + frame["before_system"],
        frame["after_system"] + before_user,
        after_user + generation,
        after_assistant + before_user,
        after_user,
    )
    return (
        frame
        if again == (before_system, system_user, user_assistant, assistant_user, after_user)
        else None
    )


def _between(text: str) -> tuple[str, ...]:
    """The texts before, between and after the contents of the probe."""
    parts = []
    for _, content in _PROBE:
        before, text = text.split(content)
        parts.append(before)
    return (*parts, text)


def _render(tokenizer: Any, probe: list[tuple[str, str]], **options: Any) -> str:
    messages = [{"role": role, "content": content} for role, content in probe]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


def _write(frame: dict[str, str], end: str, after: str) -> str:
    """The template. Fixed texts become Jinja strings, whose syntax is that of JSON."""
    strings = {
        name: json.dumps(text, ensure_ascii=False)
        for name, text in {**frame, "end": end, "after": after}.items()
    }
    put = {name: "{{ " + text + " }}" for name, text in strings.items()}
    content = "{{ message['content'] }}"
    turn = content + put["end"]
    return (
        put["begin"] + "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        + put["before_system"]
        + content
        + put["after_system"]
        + "{% elif message['role'] == 'user' %}"
        + put["before_user"]
        + content
        + put["after_user"]
        + "{% elif message['role'] == 'assistant' %}"
        + put["generation"]
        + "{% if message['train'] %}{% generation %}"
        + turn
        + "{% endgeneration %}{% else %}"
        + turn
        + "{% endif %}"
        + put["after"]
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}"
        + put["generation"]
        + "{% endif %}"
    )


def _text(tokenizer: Any, example: RenderedExample, template: str | None) -> str:
    messages = [{**message, "train": weight != 0} for message, weight in example.weighted()]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    return text
