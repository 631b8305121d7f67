"""Steps → messages: the one conversation builder for acting and training; and the ReAct format.

A conversation is `[system?] user assistant user assistant …`. Each user message is an observation,
each assistant message a completion (`Thought: …\\nAction: …`). A method's prompt suffix is appended
to the environment's prompt in the system message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eef.policy import Conversation
from eef.trajectory import Step

_REACT = re.compile(
    r"^\s*(?:thought:\s*(?P<thought>.*?))?\s*\baction:\s*(?P<action>.+?)\s*$", re.I | re.S
)
_ACTION_LINE = re.compile(r"\baction:\s*[^\n]+", re.I)


def build_conversation(
    prompt: str, steps: Sequence[Step], observation: str | None = None, *, prompt_suffix: str = ""
) -> Conversation:
    """The messages of `steps`; with the current `observation`, the prompt for the next completion.

    >>> build_conversation("You shop.", [], "Page 1", prompt_suffix="Succeed.")[0]
    {'role': 'system', 'content': 'You shop.\\n\\nSucceed.'}
    """
    system = "\n\n".join(part for part in (prompt, prompt_suffix) if part)
    messages: Conversation = [{"role": "system", "content": system}] if system else []
    for step in steps:
        messages.append({"role": "user", "content": step.observation})
        messages.append({"role": "assistant", "content": step.completion})
    if observation is not None:
        messages.append({"role": "user", "content": observation})
    return messages


def parse_completion(completion: str) -> tuple[str, str | None]:
    """(thought, action) of a completion; the action is None if there is none.

    Only the first line of the action counts.

    >>> parse_completion("Thought: red fits.\\nAction: click[red]")
    ('red fits.', 'click[red]')
    >>> parse_completion("thought: none fits. action: click[next >]")
    ('none fits.', 'click[next >]')
    >>> parse_completion("I would buy it")
    ('I would buy it', None)
    """
    match = _REACT.match(completion)
    if match is None:
        return completion.strip(), None
    action = match["action"].split("\n", 1)[0].strip()
    return (match["thought"] or "").strip(), action or None


def cut_completion(completion: str) -> str:
    """A completion up to the end of its first action; models may go on to invent observations.

    >>> cut_completion("Thought: red.\\nAction: click[red]\\nObservation: You have clicked red.")
    'Thought: red.\\nAction: click[red]'
    """
    found = _ACTION_LINE.search(completion)
    return completion[: found.end()].rstrip() if found else completion.rstrip()


def format_completion(thought: str, action: str) -> str:
    """The completion that `parse_completion` reads as this thought and action."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"
