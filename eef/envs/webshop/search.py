"""SearchIndex: ranked retrieval over the catalog, equal to the original's Lucene index (BM25).

`postings.py` writes the columns of the index.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np

from eef.envs.webshop.analysis import term, tokens
from eef.envs.webshop.columns import Columns, MemoryColumns
from eef.envs.webshop.postings import PostingsWriter, term_key

K1 = 0.9
B = 0.4
TOP = 50
CACHED_QUERIES = 4096
CACHED_TERMS = 2048
MAX_CACHED_QUERY_LENGTH = 1000
SMALL = 50_000  # up to so many products, scoring all is faster than pruning
LOOKUP_COST = 32  # one lookup in a list of postings costs as much as reading so many postings
TINY = float(np.finfo(np.float64).tiny)
BLOCKS = 1024  # blocks of the catalog whose best scores bound the score of the 50th product

Hits = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class _Clause:
    """A term of a query.

    postings     its range in `documents`
    by_pair      its contribution to a score, for each row of `pairs`
    max_impact   the largest of these
    impacts      its contribution for each of its postings, in a small shop; None otherwise
    """

    postings: slice
    by_pair: np.ndarray
    max_impact: float
    impacts: np.ndarray | None

    @property
    def size(self) -> int:
        return int(self.postings.stop - self.postings.start)


class SearchIndex:
    """An inverted index; a term's postings are the products that contain it, in order.

    terms         uint64 (terms): term keys (`term_key`), ascending
    offsets       int64 (terms + 1): term t's postings are `documents[offsets[t]:offsets[t + 1]]`
    documents     int32 (postings): positions in the catalog
    pair_numbers  uint16 (postings): the row of `pairs` for that term and product
    pairs         int32 (pairs, 2): a term count, and a length in Lucene's one-byte code
    totals        int32 (products): number of terms, for the exact mean length
    ranks         int32 (products): rank by asin, which breaks ties
    """

    def __init__(self, columns: Columns) -> None:
        self.terms, self.offsets = columns.read("terms"), columns.read("offsets")
        self.documents, self.pair_numbers = columns.read("documents"), columns.read("pair_numbers")
        self.ranks, totals = columns.read("ranks"), columns.read("totals")
        self._filled = max(1, int(np.count_nonzero(totals)))
        self._saturation = _saturation(
            columns.read("pairs").reshape(-1, 2), int(totals.sum()) / self._filled
        )
        self._scores = np.zeros(len(totals))
        self._blocks = np.arange(0, len(totals), max(1, len(totals) // BLOCKS))
        self._clause = lru_cache(CACHED_TERMS)(self._make_clause)
        self._cache: OrderedDict[str, Hits] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def build(cls, texts: Iterable[str], asins: Sequence[str]) -> SearchIndex:
        """An index in memory of one text per product; `asins` are in the same order."""
        columns = MemoryColumns()
        writer = PostingsWriter(columns)
        for text in texts:
            writer.add(text)
        writer.finish()
        columns.allocate("ranks", len(asins))[sorted(range(len(asins)), key=asins.__getitem__)] = (
            range(len(asins))
        )
        return cls(columns)

    def search(self, query: str) -> Hits:
        """The top 50 products as (position, score), best first; ties are ordered by asin."""
        with self._lock:
            hits = self._cache.get(query)
            if hits is None:
                hits = self._rank(query)
                if len(query) <= MAX_CACHED_QUERY_LENGTH:
                    self._remember(query, hits)
            return hits

    def _remember(self, query: str, hits: Hits) -> None:
        self._cache[query] = hits
        if len(self._cache) > CACHED_QUERIES:
            self._cache.popitem(last=False)

    def _rank(self, query: str) -> Hits:
        words = Counter(term(token) for token in tokens(query))
        del words[""]
        clauses = [clause for word, times in words.items() if (clause := self._clause(word, times))]
        if not clauses:
            return ()
        clauses.sort(key=_max_impact, reverse=True)
        products, scores = (
            self._score_all(clauses) if len(self._scores) <= SMALL else self._score_pruned(clauses)
        )
        order = np.lexsort((self.ranks[products], -scores))[:TOP]
        return tuple(zip(products[order].tolist(), scores[order].tolist(), strict=True))

    def _make_clause(self, word: str, times: int) -> _Clause | None:
        """A term's weights, in Lucene's single precision: w − w / (1 + count · 1 / (k1 · …)).

        None if no product contains the term.
        """
        key = np.uint64(term_key(word))
        at = int(np.searchsorted(self.terms, key))
        if at == len(self.terms) or self.terms[at] != key:
            return None
        postings = slice(int(self.offsets[at]), int(self.offsets[at + 1]))
        size = postings.stop - postings.start
        weight = np.float32(times) * np.float32(
            np.log(1 + (self._filled - size + 0.5) / (size + 0.5))
        )
        by_pair = (weight - weight / self._saturation).astype(np.float64)
        impacts = by_pair.take(self.pair_numbers[postings]) if len(self._scores) <= SMALL else None
        return _Clause(postings, by_pair, float(by_pair.max()), impacts)

    def _score_all(self, clauses: list[_Clause]) -> tuple[np.ndarray, np.ndarray]:
        """Products that may rank among the top 50, with scores; scores all products."""
        found = np.concatenate([self.documents[clause.postings] for clause in clauses])
        impacts = np.concatenate(
            [clause.impacts for clause in clauses if clause.impacts is not None]
        )
        scores = np.bincount(found, impacts, len(self._scores))
        products = np.flatnonzero(scores >= (self._threshold(scores) or TINY))
        return _top_hits(products, scores[products])

    def _score_pruned(self, clauses: list[_Clause]) -> tuple[np.ndarray, np.ndarray]:
        """Products that may rank among the top 50, with scores; prunes products (MaxScore).

        Terms are processed by decreasing impact. As soon as the remaining terms cannot lift any new
        product into the top 50, scores are completed only for products that can still reach it.
        """
        self._scores.fill(0)  # an interrupted search may have left scores
        done, left = 0.0, sum(clause.max_impact for clause in clauses)
        for at, clause in enumerate(clauses):
            if left < done and left < (bound := self._threshold(self._scores)):
                return self._complete(*self._at_least(bound - left), clauses[at:], bound, left)
            self._add_clause(clause)
            done, left = done + clause.max_impact, left - clause.max_impact
        return _top_hits(*self._at_least(self._threshold(self._scores)))

    def _add_clause(self, clause: _Clause) -> None:
        """Add a term's contribution to the score of every product that contains it."""
        impacts = clause.by_pair.take(self.pair_numbers[clause.postings])
        np.add.at(self._scores, self.documents[clause.postings], impacts)

    def _threshold(self, scores: np.ndarray) -> float:
        """A score that at least 50 products reach, from the best score of each block."""
        return _threshold_of(np.maximum.reduceat(scores, self._blocks))

    def _at_least(self, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Products with at least this score, and their scores."""
        products = np.flatnonzero(self._scores >= (least or TINY))
        return products, self._scores[products]

    def _complete(
        self,
        products: np.ndarray,
        scores: np.ndarray,
        clauses: list[_Clause],
        bound: float,
        left: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the remaining terms to the scores of products that can still reach the bound."""
        for clause in clauses:
            candidates = scores + left >= bound
            products, scores = products[candidates], scores[candidates]
            scores = scores + self._impacts(products, clause)
            left -= clause.max_impact
            bound = max(bound, _threshold_of(scores))
        return _top_hits(products, scores)

    def _impacts(self, products: np.ndarray, clause: _Clause) -> np.ndarray:
        """A term's contribution to the score of each product; 0 for those without it."""
        if len(products) * LOOKUP_COST < clause.size:
            found, numbers = self.documents[clause.postings], self.pair_numbers[clause.postings]
            places = np.minimum(np.searchsorted(found, products), len(found) - 1)
            return np.where(found[places] == products, clause.by_pair[numbers[places]], 0)
        self._scores.fill(0)
        self._add_clause(clause)
        return self._scores[products]


def _max_impact(clause: _Clause) -> float:
    return clause.max_impact


def _threshold_of(scores: np.ndarray) -> float:
    """The 50th best score, slightly lowered since single precision may merge scores; or 0."""
    if len(scores) < TOP:
        return 0.0
    return float(np.partition(scores, len(scores) - TOP)[len(scores) - TOP]) * (1 - 1e-6)


def _top_hits(products: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The top 50 and near ties, with scores in single precision as in Lucene."""
    if len(scores) > TOP:
        good = scores >= _threshold_of(scores)
        products, scores = products[good], scores[good]
    return products, scores.astype(np.float32)


def _saturation(pairs: np.ndarray, mean_length: float) -> np.ndarray:
    """1 + count / (k1 · (1 − b + b · length / mean)) per pair; float32, rounded as in Lucene."""
    lengths = np.array([decode_length(code) for code in range(256)], dtype=np.float32)
    k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
    inverse = one / (k1 * ((one - b) + b * lengths / np.float32(max(mean_length, 1e-9))))
    return one + pairs[:, 0].astype(np.float32) * inverse[pairs[:, 1]]


def decode_length(code: int) -> int:
    """The smallest length with this code (the inverse of `encode_length`)."""
    if code < 24:
        return code
    rest = code - 24
    shift = (rest >> 3) - 1
    return 24 + (rest if shift < 0 else (rest & 7 | 8) << shift)
