"""PostingsWriter: the products' search texts → the columns of the search index.

Postings arrive in product order and are sorted by term at the end, in blocks, so that at most BLOCK
of them are in memory at once.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import numpy as np

from eef.envs.webshop.analysis import term, tokens
from eef.envs.webshop.columns import Columns
from eef.utils.progress import OnProgress, Progress, ignore_progress

BLOCK = 4_000_000
REMEMBERED_WORDS = 1_000_000
_PAIRS = 1 << 16


def term_key(word: str) -> int:
    """A 64-bit BLAKE2b hash of a term; two million terms collide with a probability of 1e-7."""
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest())


def encode_length(length: int) -> int:
    """Lucene's one-byte code of a document length: exact below 40, then 4 significant bits."""
    if length < 24:
        return length
    rest = length - 24
    shift = rest.bit_length() - 4
    return 24 + (rest if shift < 0 else (rest >> shift) & 7 | (shift + 1) << 3)


class PostingsWriter:
    """Counts the terms of each product and appends them to columns, which may already hold some.

    A product's contribution to a score depends on how often it contains the term and on the code of
    its length. Each such pair is stored once; a posting is a product and the number of a pair.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._numbers = {int(key): at for at, key in enumerate(columns.read("vocabulary"))}
        pairs = columns.read("pairs").reshape(-1, 2).tolist()
        self._pairs = {(count, code): at for at, (count, code) in enumerate(pairs)}
        self._known: dict[str, tuple[int, ...]] = {}

    def add(self, text: str) -> None:
        """Append the next product's search text."""
        numbers: list[int] = []
        for word in text.replace("\n", " ").split(" "):
            known = self._known.get(word)
            numbers += self._terms(word) if known is None else known
        found, total = Counter(numbers), len(numbers)
        code = encode_length(total)
        self._columns.append("read_terms", list(found))
        self._columns.append("read_pairs", [self._pair(count, code) for count in found.values()])
        self._columns.append("distinct", [len(found)])
        self._columns.append("totals", [total])

    def _terms(self, word: str) -> tuple[int, ...]:
        """The numbers of the terms of a word (text between blanks; no token spans a blank)."""
        if len(self._known) >= REMEMBERED_WORDS:
            self._known.clear()
        stems = (term(token) for token in tokens(word))
        self._known[word] = tuple(self._number(stem) for stem in stems if stem)
        return self._known[word]

    def _number(self, stem: str) -> int:
        key = term_key(stem)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._columns.append("vocabulary", [key])
        return self._numbers[key]

    def _pair(self, count: int, code: int) -> int:
        if (count, code) not in self._pairs:
            assert len(self._pairs) < _PAIRS, "more count-length pairs than a uint16 can number"
            self._pairs[count, code] = len(self._pairs)
            self._columns.append("pairs", [count, code])
        return self._pairs[count, code]

    def finish(self, on_progress: OnProgress = ignore_progress) -> None:
        """Sort the postings by term key."""
        columns = self._columns
        vocabulary, read = columns.read("vocabulary"), columns.read("read_terms")
        order = np.argsort(vocabulary)
        columns.append("terms", vocabulary[order])
        new_number = np.empty(len(order), dtype=np.int32)
        new_number[order] = np.arange(len(order), dtype=np.int32)
        offsets = columns.allocate("offsets", len(order) + 1)
        for at in range(0, len(read), BLOCK):
            offsets[1:] += np.bincount(new_number[read[at : at + BLOCK]], minlength=len(order))
        np.cumsum(offsets, out=offsets)
        self._scatter(new_number, offsets, on_progress)

    def _scatter(
        self, new_number: np.ndarray, offsets: np.ndarray, on_progress: OnProgress
    ) -> None:
        read, pairs = self._columns.read("read_terms"), self._columns.read("read_pairs")
        distinct = self._columns.read("distinct")
        documents = self._columns.allocate("documents", len(read))
        numbers = self._columns.allocate("pair_numbers", len(read))
        ends, cursor, start, first = np.cumsum(distinct, dtype=np.int64), offsets[:-1].copy(), 0, 0
        while first < len(distinct):
            last = max(first + 1, int(np.searchsorted(ends, start + BLOCK, side="right")))
            end = int(ends[last - 1])
            terms = new_number[read[start:end]]
            order = np.argsort(terms, kind="stable")
            counts = np.bincount(terms, minlength=len(cursor))
            held = np.flatnonzero(counts)
            sizes = counts[held]
            shifts = cursor[held] - (np.cumsum(sizes) - sizes)
            places = np.arange(end - start) + np.repeat(shifts, sizes)
            documents[places] = np.repeat(
                np.arange(first, last, dtype=np.int32), distinct[first:last]
            )[order]
            numbers[places] = pairs[start:end][order]
            cursor += counts
            first, start = last, end
            on_progress(Progress("ordering the search index", end, len(read)))
