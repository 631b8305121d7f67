"""Steps → messages: the one conversation builder, for acting and for training; and the ReAct format.

A conversation is `[system?] user assistant user assistant …`: each user message is an observation, each assistant
message a completion (`Thought: …\\nAction: …`). What a method tells the policy beside the environment's prompt (how
the episode is to end) stands behind that prompt, here and nowhere else.
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
    """The messages of `steps`; with `observation` (what the agent sees now) it is the prompt for the next turn.

    >>> build_conversation("You shop.", [], "Page 1", told="Succeed.")[0]
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
    """(thought, action) of a completion; action None where there is none. A further line after the action is cut.

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
    """A completion up to the end of its first action: a model may go on and make up what it will see.

    >>> cut_completion("Thought: red.\\nAction: click[red]\\nObservation: You have clicked red.")
    'Thought: red.\\nAction: click[red]'
    """
    found = _ACTION_LINE.search(completion)
    return completion[: found.end()].rstrip() if found else completion.rstrip()


def format_completion(thought: str, action: str) -> str:
    """The completion that `parse_completion` reads back."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"
