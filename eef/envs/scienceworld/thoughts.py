"""Template thoughts for the actions of a gold path, so that a student can learn to write thoughts.

A thought repeats the task's first sentence and the one that the action carries out, then gives the
reason for the action. What a student copies into its thought is thus close to the action.
"""

from __future__ import annotations

import re

_TASK = re.compile(r"your task is to (.*)", re.I)
_SENTENCES = re.compile(r"\.\s*(?:(?:first|then|next|finally),\s*)?", re.I)
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
    """The thought before an action.

    >>> task = "Your task is to find a(n) animal. First, focus on it. Then, move it to the red box."
    >>> think(task, "go to kitchen")
    'I am to find a(n) animal, then move it to the red box: it is in the kitchen that I go on.'
    >>> think(task, "focus on dove")
    'I am to find a(n) animal, then focus on it: the dove is what it is about.'
    """
    return f"I am to {_goal(first_observation, action)}: {_reason(action)}."


def _goal(first_observation: str, action: str) -> str:
    """The task's first sentence, and the one starting with the action's verb, or the last."""
    found = _TASK.search(first_observation)
    parts = [" ".join(part.split()) for part in _SENTENCES.split(found[1])] if found else []
    sentences = [part[:1].lower() + part[1:] for part in parts if part] or ["carry out the task"]
    verb = action.lower().split()[:1]
    carried_out = next((each for each in sentences if each.split()[:1] == verb), sentences[-1])
    return ", then ".join(dict.fromkeys([sentences[0], carried_out]))


def _reason(action: str) -> str:
    for pattern, words in _COMPILED:
        match = pattern.fullmatch(action.strip())
        if match is not None:
            return words.format(*match.groups())
    return f"now I {action.strip()}"
