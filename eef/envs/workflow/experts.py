"""Scripted experts: they write workflows of known quality, with lapses."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from eef.config import unknown_name
from eef.errors import EnvError
from eef.policy import Conversation, ScriptedPolicy
from eef.react import format_completion
from eef.trajectory import Author

WORKFLOWS = {
    "direct": """\
def solve(problem, ask):
    return ask(problem + " Give the answer only.")
""",
    "sentence": """\
def solve(problem, ask):
    return ask(problem)
""",
    "steps": """\
def solve(problem, ask):
    text = ask(problem + " Work step by step.")
    return text.split("Answer:")[1]
""",
    "unread": """\
def solve(problem, ask):
    return ask(problem + " Work step by step.")
""",
    "broken": """\
def solve(problem, ask):
    return Counter(ask(problem + " Give the answer only.")).most_common()
""",
    "vote": """\
from collections import Counter

def solve(problem, ask):
    texts = [ask(problem + " Work step by step.") for _ in range(9)]
    answers = [text.split("Answer:")[1].strip() for text in texts]
    return Counter(answers).most_common(1)[0][0]
""",
}
"""Workflows from bad to good, by name."""

THOUGHTS = {
    "direct": "I ask for the answer.",
    "sentence": "I ask the model.",
    "steps": "Working step by step helps; the answer follows `Answer:`.",
    "unread": "Working step by step should help.",
    "broken": "I count the answers.",
    "vote": "Single answers are often wrong, so I take the majority of nine.",
}


@dataclass(frozen=True, slots=True)
class Preset:
    """The workflows that an expert draws from in its first turn, and in later turns."""

    first: tuple[str, ...]
    later: tuple[str, ...]


PRESETS = {
    "flawless": Preset(("vote",), ("vote",)),
    "careful": Preset(("direct", "steps", "steps", "unread"), ("vote", "vote", "steps", "broken")),
    "hasty": Preset(("direct", "sentence", "broken"), ("steps", "direct", "unread")),
}


def make_expert(env: Any, preset: str) -> ScriptedPolicy:
    """Create the scripted expert of a preset. EnvError if there is none of that name."""
    if preset not in PRESETS:
        raise unknown_name("scripted expert", preset, PRESETS, error=EnvError)
    choices = PRESETS[preset]

    def write(conversation: Conversation, seed: int) -> str:
        turns = sum(message["role"] == "assistant" for message in conversation)
        name = random.Random(seed).choice(choices.later if turns else choices.first)
        return format_completion(THOUGHTS[name], f"run[\n{WORKFLOWS[name]}]")

    return ScriptedPolicy(Author("expert", preset), write)
