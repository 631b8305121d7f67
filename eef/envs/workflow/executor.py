"""The weak executor: a scripted model whose chance of a right answer depends on the prompt.

It answers the last question that it finds in a prompt. A solution of n steps is right with
probability q^n:

    q = 0.72, plus 0.16 if the prompt asks to work `step by step`, plus 0.04 for each of up to two
        questions with their answers that come before

Asked to work step by step, it writes a line of words first and its answer after `Answer:`. It
writes the bare answer if the prompt asks for the `answer only`, and a sentence otherwise. A wrong
answer is close to the right one, and differs from draw to draw, so that votes help.
"""

from __future__ import annotations

import random
from itertools import pairwise

from eef.envs.workflow.problems import find_questions

BASE, STEPS, EXAMPLE, EXAMPLES = 0.72, 0.16, 0.04, 2
LONGEST_PROMPT = 8_000  # characters; longer prompts are not understood


def answer_weakly(prompt: str, seed: str) -> str:
    """The executor's text, which depends on the prompt and the seed alone."""
    questions = find_questions(prompt) if len(prompt) <= LONGEST_PROMPT else []
    if not questions:
        return "I do not understand the question."
    chance = random.Random(f"{seed}\n{prompt}")
    question = questions[-1]
    words = prompt.lower()
    by_steps = "step by step" in words
    shown = sum(each.answer in prompt[each.end : after.end] for each, after in pairwise(questions))
    q = BASE + STEPS * by_steps + EXAMPLE * min(shown, EXAMPLES)
    right = chance.random() < q**question.size
    answer = question.answer if right else near_miss(question.answer, chance)
    if by_steps:
        return f"I go through it step by step.\nAnswer: {answer}"
    return answer if "answer only" in words else f"I think it is {answer}, but I may be wrong."


def near_miss(answer: str, chance: random.Random) -> str:
    """A wrong answer that is close to the right one."""
    if answer.lstrip("-").isdecimal():
        return str(int(answer) + chance.choice((-10, -3, -2, -1, 1, 2, 3, 10)))
    parts = answer.split(", ") if ", " in answer else list(answer)
    place = chance.randrange(max(1, len(parts) - 1))
    parts[place : place + 2] = reversed(parts[place : place + 2])
    wrong = (", " if ", " in answer else "").join(parts)
    return wrong if wrong != answer else answer[:place] + answer[place + 1 :]
