"""The index of pages that are files: what their script filters, sorts and searches tasks by.

A page that was opened as a file cannot read others, but it can load scripts beside it. The index is
a few of them, each a call with data, loaded when they are needed and bounded in size:

    RUN.index.js      for each task the filters that select it and its number of rollouts; the order
                      of tasks by each way to sort; the first word of each file of words
    RUN.rows.N.js     for `ROWS` tasks in the order of the run: the row of the table as markup, and
                      the pages of their rollouts
    RUN.words.N.js    words in alphabetical order, each with the rollouts that contain it

The words are those of the full-text index. The rollouts of a word are ascending numbers, written as
differences in base 36; a number is 16 × rollout + the kinds of text with the word, 1 for the
instruction, 2 for observations, 4 for thoughts, 8 for actions. Rollouts are numbered in the order
of their tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from eef.viewer.address import Address
from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import TaskRow
from eef.viewer.search import FIELDS
from eef.viewer.tasks import FILTERS, PAGE, SORTS

ROWS = 200
"""Tasks per file of rows."""
WORDS_SIZE = 200_000
"""Characters after which a file of words ends; one word may be longer."""

DrawRow = Callable[[TaskRow], str]


def index_files(
    slug: str, reader: Reader, draw_row: DrawRow, page_name: Callable[[Address], str]
) -> Iterator[tuple[str, str]]:
    """The files of a run's index as (name, text); the main one comes last.

    `page_name` gives the name of the file of a page.
    """
    tasks = reader.tasks("1 ORDER BY position")
    rollouts: dict[str, list[str]] = {task.task: [] for task in tasks}
    numbers: list[tuple[str, int]] = []
    for number, name, task in reader.query("SELECT id, name, task FROM trajectories ORDER BY id"):
        if task in rollouts:
            rollouts[task].append(page_name(Address.of("trajectory", slug, name)))
            numbers.append((task, number))
    place = {task.task: at for at, task in enumerate(tasks)}
    numbers.sort(key=lambda each: place[each[0]])
    numbered = {number: at for at, (_, number) in enumerate(numbers)}
    for start in range(0, len(tasks), ROWS):
        rows = [[draw_row(task), rollouts[task.task]] for task in tasks[start : start + ROWS]]
        yield _file(slug, f"rows.{start // ROWS}", rows)
    firsts = []
    for at, words in enumerate(_shards(reader, numbered)):
        firsts.append(words[0])
        yield _file(slug, f"words.{at}", words)
    yield _file(
        slug,
        "index",
        {
            "page": PAGE,
            "rows": ROWS,
            "filters": {each.name: [1 << at, each.about] for at, each in enumerate(FILTERS)},
            "masks": _masks(reader),
            "counts": [len(each) for each in rollouts.values()],
            "sorts": {
                name: [place[task] for (task,) in reader.query(f"SELECT task FROM tasks {order}")]
                for name, (_, by) in SORTS.items()
                for order in [f"ORDER BY {by}"]
            },
            "fields": {name: 1 << at for at, name in enumerate(FIELDS)},
            "words": firsts,
        },
    )


def _masks(reader: Reader) -> list[int]:
    """For each task in the order of the run, the filters that select it: bit i is filter i."""
    bits = " + ".join(f"({each.condition}) * {1 << at}" for at, each in enumerate(FILTERS))
    return [mask or 1 for (mask,) in reader.query(f"SELECT {bits} FROM tasks ORDER BY position")]


def _shards(reader: Reader, numbered: dict[int, int]) -> Iterator[list[str]]:
    """Words and their rollouts in turn, in lists of about `WORDS_SIZE` characters."""
    reader.query("DROP TABLE IF EXISTS temp.words")
    reader.query("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'texts', 'instance')")
    kinds = {name: 1 << at for at, name in enumerate(FIELDS)}
    found: dict[str, str] = {}
    rows = reader.cursor("SELECT term, doc, col FROM temp.words")
    for word, group in groupby(rows, key=lambda row: row[0]):
        masks: dict[int, int] = {}
        for _, number, kind in group:
            if number in numbered:
                at = numbered[number]
                masks[at] = masks.get(at, 0) | kinds[kind]
        if masks:
            found[word] = _encode(sorted(16 * at + mask for at, mask in masks.items()))
    shard: list[str] = []
    size = 0
    for word in sorted(found, key=lambda word: word.encode("utf-16-be", "replace")):  # as scripts
        shard += [word, found.pop(word)]
        size += len(shard[-1]) + len(word)
        if size >= WORDS_SIZE:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _encode(numbers: list[int]) -> str:
    """Ascending numbers as differences in base 36.

    >>> _encode([1, 37, 1000])
    '1 10 qr'
    """
    before, parts = 0, []
    for number in numbers:
        parts.append(_base36(number - before))
        before = number
    return " ".join(parts)


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        if not number:
            return digits


def _file(slug: str, name: str, data: Any) -> tuple[str, str]:
    text = json.dumps(data, separators=(",", ":"))
    return f"{slug}.{name}.js", f"eefFiles({json.dumps(name)},{text});\n"
