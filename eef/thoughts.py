"""Thought blocks: the parts of a completion between tags such as `<think>` and `</think>`.

They hold no action and no call, and are not part of a message to a user. What `Thought:` labels is
not a block.
"""

from __future__ import annotations

import re

THOUGHT_TAG = re.compile(
    r"<\|?(?P<close>/|end_(?:of_)?)?(?:(?:begin_of|start)_)?"
    r"(?P<name>think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|seed:think)"
    r"(?:\s[^<>\n]{0,80})?\|?>"
    r"|(?:(?<!\w)\[|\[(?P<close_bracket>/))(?P<bracket>think(?:ing)?|reasoning)\]"
    r"|◁(?P<close_kimi>/)?(?P<kimi>think)▷",
    re.I,
)
"""The tags of thought blocks: `<think>`, `<|begin_of_thought|>`, `[THINK]`, `◁think▷`, …"""

LABEL_PREFIX = r"^[ \t]*(?:(?:[-*+>]|#{1,6}|\d{1,3}[.)])[ \t]+|>)*(?P<marks>[*_`]{0,3})"
LABEL_END = r"(?:[ \t]*\d{1,3})?(?P<closed>[*_`]{0,3})[ \t]*[:：]"
ACTION_LABEL = re.compile(f"{LABEL_PREFIX}action{LABEL_END}", re.I | re.M)


def drop_thoughts(completion: str) -> str:
    """A completion without its thought blocks; what `Thought:` labels remains.

    >>> drop_thoughts("<think>\\nRed?\\n</think>\\n\\nThought: red fits.\\nAction: click[red]")
    'Thought: red fits.\\nAction: click[red]'
    """
    for start, end in reversed(thought_blocks(completion)):
        completion = completion[:start] + completion[end:].lstrip()
    return completion


def is_blank(completion: str) -> bool:
    """Whether a completion has no text outside thought blocks. Such a turn is never trained."""
    return not drop_thoughts(completion).strip()


def thought_blocks(text: str) -> list[tuple[int, int]]:
    """The (start, end) of every thought block, tags included. A tag in an action is text."""
    blocks: list[tuple[int, int]] = []
    kind, start = "", 0
    for tag in THOUGHT_TAG.finditer(text):
        name = (tag["name"] or tag["bracket"] or tag["kimi"]).lower()
        closes = tag["close"] or tag["close_bracket"] or tag["close_kimi"]
        if kind:
            if closes and name == kind:
                blocks.append((start, tag.end()))
                kind = ""
        elif _is_in_action(text, blocks[-1][1] if blocks else 0, tag.start()):
            continue
        elif closes:
            blocks = [(0, tag.end())]
        else:
            kind, start = name, tag.start()
    return [*blocks, (start, len(text))] if kind else blocks


def _is_in_action(text: str, start: int, index: int) -> bool:
    """Whether the line of `index`, seen from `start`, has an action before it."""
    line = text[max(start, text.rfind("\n", 0, index) + 1) : index]
    label = ACTION_LABEL.match(line)
    return label is not None and bool(line[label.end() :].strip())
