"""A model's chat template as other trainers apply it: compared with `eef`, or marked for TRL.

Most trainers render a whole conversation at once by the model's template. `compare` states whether
that gives the text that `eef` trains on.

TRL trains the text between `{% generation %}` and `{% endgeneration %}`. The marked template puts
these around assistant messages whose `train` is true, end of turn included. It is made of the fixed
texts that the model's own template puts before, between and after messages, with the template
variables and the date of the run. It is used only if it renders every example to the text that
`eef` trains on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from eef.errors import ModelError
from eef.exporters.examples import RenderedExample
from eef.policy import Conversation
from eef.renderer import Renderer

_SYSTEM, _USER, _AGENT, _NEXT = "\u2402", "\u2403", "\u2404", "\u2405"
"""Contents that are found again in a rendered text."""

_SHOWN = 30  # characters shown of a difference, after 10 that are equal


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many of some texts a trainer's rendering changes, and the first change.

    `theirs` and `ours` are the texts from shortly before the first difference. `needs_variables` is
    True if the texts are equal only with the template variables of the run.
    """

    different: int
    total: int
    theirs: str = ""
    ours: str = ""
    needs_variables: bool = False


def compare(texts: Iterable[tuple[Conversation, str]], renderer: Renderer) -> Comparison:
    """Compare conversations rendered at once by the model's template with the texts that are
    trained on.

    They are equal if the rendering starts with the text: what follows the last trained turn has no
    loss. The date is the run's.
    """
    pairs = list(texts)
    plain = _compare(pairs, renderer, with_variables=False)
    if not plain.different or not renderer.template.variables:
        return plain
    return _compare(pairs, renderer, with_variables=True)


def _compare(
    texts: list[tuple[Conversation, str]], renderer: Renderer, *, with_variables: bool
) -> Comparison:
    different, shown = 0, ("", "")
    for conversation, ours in texts:
        messages = tuple((message["role"], message["content"]) for message in conversation)
        theirs = renderer.template.whole_text(messages, with_variables=with_variables)
        if theirs is not None and theirs.startswith(ours):
            continue
        different += 1
        if different == 1:
            shown = _difference(theirs or "", ours)
    return Comparison(different, len(texts), *shown, needs_variables=with_variables)


def _difference(theirs: str, ours: str) -> tuple[str, str]:
    pairs = enumerate(zip(theirs, ours, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(theirs), len(ours)))
    begin = max(0, place - 10)
    return theirs[begin : place + _SHOWN], ours[begin : place + _SHOWN]


def marked_template(renderer: Renderer, examples: Iterable[RenderedExample]) -> str | None:
    """The marked template of a renderer's tokenizer.

    None if it would not render the messages of every example to the text that `eef` trains on.
    """
    template = _marked(renderer)
    if template is None:
        return None
    for example in examples:
        parts = list(example.trained_parts())
        messages = [
            {**message, "train": weight != 0} for message, weight in example.weighted(folded=True)
        ]
        rendered: str = renderer.tokenizer.apply_chat_template(
            messages, tokenize=False, chat_template=template
        )
        if parts and not rendered.startswith(parts[-1][1]):
            return None
    return template


def _marked(renderer: Renderer) -> str | None:
    """The template of fixed texts; None if the model's template has no such texts."""
    parts = renderer.template.parts
    talk = (("user", _USER), ("assistant", _AGENT))
    (alone,) = parts(talk[:1])
    whole = renderer.template.whole_text(talk)
    between = parts((*talk, ("user", _NEXT)))[-1]
    probes = [(alone, _USER), (between, _NEXT), (whole or "", _AGENT)]
    before_system, after_system = None, ""
    if not renderer.template.folds_system:
        (first,) = parts((("system", _SYSTEM), ("user", _USER)))
        probes += [(first, _SYSTEM), (first, _USER)]
    if any(text.count(content) != 1 for text, content in probes):
        return None
    before_first, after_user = alone.split(_USER)
    if not renderer.template.folds_system:
        before_system, rest = first.split(_SYSTEM)
        after_system, after_user_of_system = rest.split(_USER)
        if after_user_of_system != after_user:
            return None
    before_next, after_next = between.split(_NEXT)
    last_end = (whole or "").split(_AGENT)[1]
    try:
        end = renderer.turn_end(before_next)
    except ModelError:
        return None
    turn_end = before_next[:end]
    if after_next != after_user or not last_end.startswith(turn_end):
        return None
    user_alone = renderer.template.whole_text(talk[:1]) or ""
    end_of_user = user_alone.removeprefix(before_first + _USER)
    if not after_user.startswith(end_of_user):
        end_of_user = after_user
    return _write(
        before_system=before_system,
        after_system=after_system,
        before_first=before_first,
        before_next=before_next[end:],
        end_of_user=end_of_user,
        generation=after_user[len(end_of_user) :],
        turn_end=turn_end,
        after_last=last_end[len(turn_end) :],
    )


def _write(*, before_system: str | None, **texts: str) -> str:
    """The template. Fixed texts become Jinja strings, whose syntax is that of JSON."""
    put = {
        name: "{{ " + json.dumps(text, ensure_ascii=False) + " }}" for name, text in texts.items()
    }
    content = "{{ message['content'] }}"
    turn = content + put["turn_end"]
    system = ""
    if before_system is not None:
        system = (
            "{% if message['role'] == 'system' %}"
            + ("{{ " + json.dumps(before_system, ensure_ascii=False) + " }}")
            + content
            + put["after_system"]
            + "{% endif %}"
        )
    return (
        "{% for message in messages %}"
        + system
        + "{% if message['role'] == 'user' %}"
        + "{% if loop.first %}"
        + put["before_first"]
        + "{% elif loop.previtem['role'] == 'assistant' %}"
        + put["before_next"]
        + "{% endif %}"
        + content
        + put["end_of_user"]
        + "{% if not loop.last or add_generation_prompt %}"
        + put["generation"]
        + "{% endif %}"
        + "{% elif message['role'] == 'assistant' %}"
        + "{% if message['train'] %}{% generation %}"
        + turn
        + "{% endgeneration %}{% else %}"
        + turn
        + "{% endif %}"
        + "{% if loop.last %}"
        + put["after_last"]
        + "{% endif %}{% endif %}{% endfor %}"
    )
