"""Questions to roles, and how an agent acts with roles: `role_conversation`, `turn_question`,
`Acting`.

Acting and training build the conversation of a role here. A question about a turn is a function of
the path up to it, so it is not stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eef.chat import build_conversation
from eef.note import Shown
from eef.policy import Conversation
from eef.thoughts import drop_thoughts
from eef.trajectory import Step

ADVISE = (
    "In one or two sentences, advise the agent on what to aim at in its next turn. Do not write "
    "its action."
)
CRITICIZE = (
    "Criticize this proposal in five lines:\n"
    "Contribution: what it contributes to the task.\n"
    "Feasibility: whether the action is possible now.\n"
    "Efficiency: whether it is a direct way.\n"
    "Grade: excellent, good, neutral, poor or very poor.\n"
    "Revision: a better action, or none."
)
VALUE = (
    "Explain in one sentence how near this is to completing the task. Then write `Score: ` and a "
    "number from 0 (no chance) to 10 (completed)."
)

_STEPS = re.compile(r"^[\s*_#>-]*critical steps?[*_]*\s*[:：](.*)$", re.I | re.M)
_BETWEEN_STEPS = re.compile(r"\s*(?:,\s*and\b|[,;&]|\band\b)\s*", re.I)
_STEP_OR_RANGE = re.compile(r"(?:steps?\s*|#)?(\d+)(?:\s*(?:-|–|—|to)\s*(\d+))?", re.I)
_GRADE = re.compile(
    r"\bgrade[*_]*\s*[:：=]\s*[*_]*\s*(?:excellent|good|neutral|poor|very\s+poor)\b", re.I
)
_SCORE = re.compile(r"score\s*[:=]\s*\**\s*(-?\d+(?:\.\d+)?)", re.I)


@dataclass(frozen=True, slots=True)
class Acting:
    """How an agent takes a turn.

    alone       it writes one completion
    advised     a role writes advice first, which remains in the conversation
    criticized  it proposes `candidates`, a role criticizes each, it reads all of this and decides;
                later turns do not show it
    lookahead   it proposes `candidates`; each is executed and undone, a role scores what it led to,
                and the first of those with the highest score is executed

    `role` is the name of the role. Candidates are sampled at `temperature` if the agent's own is 0,
    since greedy candidates would all be equal. Without `from_start`, rollouts from a task's start
    act alone, and those from inside a trajectory in this way.
    """

    kind: Literal["alone", "advised", "criticized", "lookahead"] = "alone"
    role: str = ""
    candidates: int = 5
    temperature: float = 0.7
    from_start: bool = True

    @property
    def shown(self) -> Shown:
        """The advice that the agent sees in earlier turns."""
        return "all" if self.kind == "advised" else "none"

    @property
    def trained(self) -> Shown:
        """The advice that an example of one turn shows to be what the agent acted on."""
        shown: dict[str, Shown] = {"advised": "all", "criticized": "last"}
        return shown.get(self.kind, "none")


ALONE = Acting()


def role_conversation(prompt: str, question: str) -> Conversation:
    """The conversation that a role answers; `prompt` is that of the environment."""
    system = f"You assist an agent. Its instructions are:\n\n{prompt}" if prompt else ""
    messages = [("system", system), ("user", question)]
    return [{"role": role, "content": content} for role, content in messages if content]


def task_question(instruction: str, question: str) -> str:
    """The whole question of a note about a task."""
    return f"The task is:\n{instruction}\n\n{question}"


def transcript(conversation: Conversation) -> str:
    """A conversation as a text, without its system message and without thought blocks."""
    names = {"user": "Observation", "tool": "Observation", "assistant": "Agent"}
    return "\n\n".join(
        f"{names[message['role']]}:\n{drop_thoughts(message['content'])}"
        for message in conversation
        if message["role"] in names
    )


def turn_question(
    conversation: Conversation, request: str, *, candidate: str = "", seen: str | None = None
) -> str:
    """The question about the turn that a conversation has reached.

    `candidate` is the completion that it is about, `seen` the observation that it led to.
    """
    parts = [f"The episode so far:\n\n{transcript(conversation)}"]
    if candidate:
        parts.append(f"The agent proposes:\n{drop_thoughts(candidate)}")
    if seen is not None:
        parts.append(f"This leads to:\n{seen}")
    return "\n\n".join([*parts, request])


def recorded_question(
    steps: Sequence[Step],
    t: int,
    request: str,
    *,
    shown: Shown = "none",
    candidate: str = "",
    seen: str | None = None,
) -> str:
    """The question that a role was asked about step `t` of a path, from its record."""
    conversation = build_conversation("", steps[:t], steps[t].observation, advice=shown)
    return turn_question(conversation, request, candidate=candidate, seen=seen)


def read_score(text: str) -> float:
    """The last `Score: <number>` of a text, as a share of 10. ValueError if there is none.

    >>> read_score("It has the color. Score: 7")
    0.7
    """
    found = _SCORE.findall(text)
    if not found:
        raise ValueError("it holds no `Score: <number>`")
    score = float(found[-1])
    if not 0 <= score <= 10:
        raise ValueError(f"its score is {score:g}; expected a number from 0 to 10")
    return score / 10


def check_critique(text: str) -> None:
    """ValueError unless a critique has a line `Grade: …` with one of the grades.

    >>> check_critique("Feasibility: yes.\\n**Grade:** very poor")
    """
    if not _GRADE.search(text):
        raise ValueError("it holds no `Grade:` of the given ones")


def reason_of(text: str) -> str:
    """A text of a value model without the score that `read_score` reads, and what follows it.

    >>> reason_of("It has the color. **Score: 7**")
    'It has the color.'
    """
    found = list(_SCORE.finditer(text))
    return text[: found[-1].start() if found else None].strip("*# \n")


def number_steps(steps: Sequence[Step]) -> str:
    """Steps as a text in which they are numbered from 1, with their advice, for judges."""
    return "\n\n".join(
        "\n".join(
            [
                f"Step {number}",
                f"Observation: {step.observation}",
                *(f"Advice: {each.text}" for each in step.advice if not each.candidate),
                f"Agent: {drop_thoughts(step.completion)}",
            ]
        )
        for number, step in enumerate(steps, start=1)
    )


def read_step_numbers(text: str, steps: int) -> list[int]:
    """The indices, from 0 and each once, that the last line `Critical steps: …` of a text names.

    Steps are numbers or ranges, separated by commas or `and`, with remarks in parentheses; `none`
    names none. ValueError if there is no such line, if it has another form, or if it names a step
    that does not exist.

    >>> read_step_numbers("It plans, then buys.\\nCritical steps: 4, 1-2 (the search)", 5)
    [3, 0, 1]
    """
    found = _STEPS.findall(text)
    if not found:
        raise ValueError("it holds no line `Critical steps: …`")
    line = re.sub(r"\([^()]*\)", " ", found[-1]).strip(" \t.*_`[]")
    if not re.search(r"\d", line):
        if "none" in line.lower():
            return []
        raise ValueError(f"it names no step: {found[-1].strip()!r}")
    numbers: list[int] = []
    for part in _BETWEEN_STEPS.split(line):
        if (match := _STEP_OR_RANGE.fullmatch(part)) is None:
            raise ValueError(f"it names steps in another form: {found[-1].strip()!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        numbers += range(first, last + 1) if first <= last else [first, last]
    outside = [number for number in numbers if not 1 <= number <= steps]
    if outside:
        raise ValueError(f"it names step {outside[0]} of {steps}")
    return list(dict.fromkeys(number - 1 for number in numbers))
