"""Puzzles with exact answers, in families. An answer is computed from the words of its question.

The same functions grade a workflow and let the weak executor answer any question of a family that
it finds in a prompt, including one that a workflow has derived from another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_WORDS = (
    *("amber", "basket", "candle", "dragon", "engine", "feather", "garden", "harbor", "island"),
    *("jacket", "kettle", "lantern", "marble", "needle", "orchard", "pepper", "quarry", "ribbon"),
    *("saddle", "timber", "umbrella", "velvet", "walnut", "yellow", "zipper"),
)
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn")
_THINGS = ("apples", "coins", "pens", "shells", "stamps")


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question.

    make     a random question
    pattern  what a question of the family looks like, inside any text
    solve    (match of the pattern) → the exact answer
    size     (match) → how many steps a solution takes; more steps are harder
    """

    name: str
    make: Callable[[random.Random], str]
    pattern: re.Pattern[str]
    solve: Callable[[re.Match[str]], str]
    size: Callable[[re.Match[str]], float]


MOST_PROBLEMS = 100
"""Different questions that every family has at least; the smallest one has 125."""


class Problem(NamedTuple):
    """A question and its exact answer."""

    question: str
    answer: str


class Found(NamedTuple):
    """A question inside a text: where it ends, its answer, and the steps of a solution."""

    end: int
    answer: str
    size: float


def make_problems(family: Family, count: int, seed: str) -> list[Problem]:
    """`count` different questions, which depend on the family and the seed alone; at most
    MOST_PROBLEMS."""
    chance = random.Random(f"{family.name} {seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        question = family.make(chance)
        match = family.pattern.fullmatch(question)
        assert match is not None, f"{family.name}: its pattern does not match {question!r}"
        found[question] = Problem(question, family.solve(match))
    return list(found.values())


def find_questions(text: str) -> list[Found]:
    """The questions of all families in a text, in order."""
    return sorted(
        Found(match.end(), family.solve(match), family.size(match))
        for family in FAMILIES.values()
        for match in family.pattern.finditer(text)
    )


def is_right(problem: Problem, answer: str | None) -> bool:
    """Whether an answer is exact, up to white space, quotes and a full stop around it."""
    return answer is not None and normal(answer) == normal(problem.answer)


def normal(answer: str) -> str:
    return " ".join(answer.split()).strip("\"'`. ")


def _make_sum(chance: random.Random) -> str:
    terms = [str(chance.randint(10, 99))]
    for _ in range(chance.randint(2, 4)):
        terms += [chance.choice("+-"), str(chance.randint(2, 60))]
    return f"Compute {' '.join(terms)}."


def _solve_sum(match: re.Match[str]) -> str:
    return str(sum(int(term.replace(" ", "")) for term in _terms(match[1])))


def _terms(expression: str) -> list[str]:
    return re.findall(r"[+-]? ?\d+", expression)


def _make_shopping(chance: random.Random) -> str:
    name, thing = chance.choice(_NAMES), chance.choice(_THINGS)
    bags, each = chance.randint(3, 9), chance.randint(4, 12)
    given = chance.randint(1, bags * each - 1)
    return (
        f"{name} has {bags} bags with {each} {thing} each and gives away {given}. "
        f"How many {thing} are left?"
    )


def _make_count(chance: random.Random) -> str:
    letters = "".join(chance.choice("aabcdee") for _ in range(chance.randint(12, 24)))
    return f'How often does the letter "{chance.choice("abcde")}" occur in "{letters}"?'


def _make_backwards(chance: random.Random) -> str:
    return f'Write "{chance.choice(_WORDS)}{chance.choice(_WORDS)}" backwards.'


def _make_order(chance: random.Random) -> str:
    numbers = chance.sample(range(10, 100), chance.randint(4, 7))
    return f"Sort from small to large: {', '.join(map(str, numbers))}."


def _solve_order(match: re.Match[str]) -> str:
    return ", ".join(map(str, sorted(map(int, match[1].split(", ")))))


def _make_initials(chance: random.Random) -> str:
    words = chance.sample(_WORDS, chance.randint(3, 6))
    return f"Join the last letters of these words: {' '.join(words)}."


def _make_shift(chance: random.Random) -> str:
    word, by = chance.choice(_WORDS), chance.randint(1, 5)
    return f'Replace each letter of "{word}" by the letter {by} places later (z is followed by a).'


def _solve_shift(match: re.Match[str]) -> str:
    return "".join(chr((ord(letter) - 97 + int(match[2])) % 26 + 97) for letter in match[1])


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "sums",
            _make_sum,
            re.compile(r"Compute (-?\d{1,6}(?: [+-] \d{1,6}){1,9})\."),
            _solve_sum,
            lambda match: len(_terms(match[1])) - 1,
        ),
        Family(
            "shopping",
            _make_shopping,
            re.compile(
                r"[A-Z]\w{1,9} has (\d{1,4}) bags with (\d{1,4}) (\w{2,12}) each and gives away "
                r"(\d{1,6})\. How many \3 are left\?"
            ),
            lambda match: str(int(match[1]) * int(match[2]) - int(match[4])),
            lambda match: 2.5,
        ),
        Family(
            "counting",
            _make_count,
            re.compile(r'How often does the letter "([a-z])" occur in "([a-z]{1,60})"\?'),
            lambda match: str(match[2].count(match[1])),
            lambda match: len(match[2]) / 6,
        ),
        Family(
            "backwards",
            _make_backwards,
            re.compile(r'Write "([a-z]{1,40})" backwards\.'),
            lambda match: match[1][::-1],
            lambda match: len(match[1]) / 4,
        ),
        Family(
            "sorting",
            _make_order,
            re.compile(r"Sort from small to large: (\d{1,6}(?:, \d{1,6}){0,19})\."),
            _solve_order,
            lambda match: len(match[1].split(", ")) / 2,
        ),
        Family(
            "endings",
            _make_initials,
            re.compile(r"Join the last letters of these words: ([a-z]+(?: [a-z]+){0,19})\."),
            lambda match: "".join(word[-1] for word in match[1].split()),
            lambda match: len(match[1].split()) / 1.5,
        ),
        Family(
            "shifting",
            _make_shift,
            re.compile(
                r'Replace each letter of "([a-z]{1,40})" by the letter (\d{1,2}) places later '
                r"\(z is followed by a\)\."
            ),
            _solve_shift,
            lambda match: len(match[1]) / 2,
        ),
    )
}
"""Families by name; the order is part of what a task's index means."""
