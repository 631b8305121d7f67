"""Hypothesis strategies that damage valid JSON values and files."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

WORDS = ("", " ", "null", "NaN", "1e999", "Action: ", "\x00", "\u2028", "\ud800", "é" * 50)
texts = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(WORDS)
numbers = st.integers(-3, 3) | st.sampled_from([10**25, -(10**25), 1e308, -0.0, 0.5, 1e-320])
odd_numbers = st.sampled_from([float("nan"), float("inf"), float("-inf")])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, value: Any, replacements: st.SearchStrategy[Any] = values) -> Any:
    """The value with up to three parts replaced, removed, repeated or renamed."""
    root = [deepcopy(value)]
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        parents = list(_containers(root))
        parent = parents[draw(st.integers(0, len(parents) - 1))]
        keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "wrap"]))
        if how == "replace" or (how == "remove" and parent is root):
            parent[key] = draw(replacements)
        elif how == "remove":
            del parent[key]
        elif how == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"x": parent[key]}]))
        elif isinstance(parent, dict):
            parent[draw(texts)] = deepcopy(parent[key])
        elif parent is not root:
            parent.insert(key, deepcopy(parent[key]))
    return root[0]


def _containers(value: Any) -> Any:
    """The lists and objects in a JSON value that are not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _containers(part)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes of a file with a part cut out, repeated, or replaced."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 200)))
    how = draw(st.sampled_from(["cut", "end", "repeat", "replace"]))
    middle = {
        "cut": b"",
        "end": b"",
        "repeat": content[start:end] * 2,
        "replace": draw(st.binary(max_size=20)),
    }[how]
    return content[:start] + middle + (b"" if how == "end" else content[end:])
