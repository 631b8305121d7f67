"""Thoughts: a sentence for each action, so that whoever imitates the gold path has something to say. Templates alone.

A thought says again what the task wants, then why the action follows: what a student copies into its thought stands
next to what it does.
"""

from __future__ import annotations

import re

_GOAL = re.compile(r"your task is to (.*?)(?:\.|\n|$)", re.I)
_WHY = (
    (r"(?:go|teleport) (?:to )?(.+)", "it is in the {0} that I go on"),
    (r"open door to (.+)", "the way to the {0} must be open"),
    (r"open (.+)", "what I need may be in the {0}"),
    (r"focus on (.+)", "the {0} is what it is about"),
    (r"pick up (.+)", "I take the {0} along"),
    (r"(?:move|pour) (.+) (?:to|in|into) (.+)", "the {0} belongs in the {1}"),
    (r"connect (.+) to (.+)", "current must go from {0} to {1}"),
    (r"activate (.+)", "the {0} must be on"),
    (r"deactivate (.+)", "the {0} must be off"),
    (r"use (.+) on (.+)", "the {0} tells about the {1}"),
    (r"read (.+)", "the {0} may say how"),
    (r"(?:look (?:at|in)|examine) (.+)", "I look at the {0}"),
    (r"look around", "I see what is here"),
    (r"wait\d*", "this takes time"),
    (r"\d+", "that is the one I mean"),
)
_COMPILED = tuple((re.compile(pattern, re.I), words) for pattern, words in _WHY)


def think(first_observation: str, action: str) -> str:
    """The thought that goes with an action.

    >>> think("Task Description: Your task is to find a(n) animal. First, focus on it.", "go to kitchen")
    'I am to find a(n) animal: it is in the kitchen that I go on.'
    """
    found = _GOAL.search(first_observation)
    goal = " ".join(found[1].split()) if found else "carry out the task"
    return f"I am to {goal}: {_reason(action)}."


def _reason(action: str) -> str:
    for pattern, words in _COMPILED:
        match = pattern.fullmatch(action.strip())
        if match is not None:
            return words.format(*match.groups())
    return f"now I {action.strip()}"
