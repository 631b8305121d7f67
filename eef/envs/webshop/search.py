"""SearchIndex: ranked retrieval over the catalogue, equal to the original's Lucene index (BM25).

Stands between the catalogue (its products' search texts) and the result pages.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from eef.envs.webshop.analysis import term, tokens

K1 = 0.9
B = 0.4
TOP = 50
CACHED_QUERIES = 4096

Hits = tuple[tuple[int, float], ...]


class SearchIndex:
    """An inverted index; a term's postings are the documents that hold it.

    vocabulary  term → number
    offsets     int64 (terms + 1): term t's postings are `documents[offsets[t]:offsets[t + 1]]`
    documents   int32: positions in the catalogue
    counts      int32: how often that document holds the term
    lengths     uint8 (documents): a document's number of terms in Lucene's one-byte code
    ranks       int32 (documents): a document's place in the order of asins, which breaks ties
    total       number of terms in all documents, for the exact mean length
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        offsets: np.ndarray,
        documents: np.ndarray,
        counts: np.ndarray,
        lengths: np.ndarray,
        ranks: np.ndarray,
        total: int,
    ) -> None:
        self.vocabulary, self.offsets, self.documents, self.counts = vocabulary, offsets, documents, counts
        self.lengths, self.ranks, self.total = lengths, ranks, total
        self._filled = max(1, int(np.count_nonzero(lengths)))
        self._slowdown = _saturation(total / self._filled)[lengths]
        self._cache: OrderedDict[str, Hits] = OrderedDict()

    @classmethod
    def build(cls, texts: Iterable[str], asins: Sequence[str]) -> SearchIndex:
        """Index one text a document; `asins` are the documents' names in the same order."""
        terms = _Terms()
        numbers, counts, distinct, totals = array("i"), array("i"), array("i"), array("q")
        for text in texts:
            found = Counter(terms.numbers(text))
            numbers.extend(found.keys())
            counts.extend(found.values())
            distinct.append(len(found))
            totals.append(sum(found.values()))
        return cls._sorted(terms.vocabulary, _ints(numbers), _ints(counts), _ints(distinct), totals, asins)

    @classmethod
    def _sorted(
        cls,
        vocabulary: dict[str, int],
        numbers: np.ndarray,
        counts: np.ndarray,
        distinct: np.ndarray,
        totals: array[int],
        asins: Sequence[str],
    ) -> SearchIndex:
        """Turn postings in the order of documents into postings in the order of terms."""
        documents = np.repeat(np.arange(len(distinct), dtype=np.int32), distinct)
        order = np.argsort(numbers, kind="stable")
        frequencies = np.bincount(numbers, minlength=len(vocabulary))
        return cls(
            vocabulary=vocabulary,
            offsets=np.concatenate([[0], np.cumsum(frequencies)]),
            documents=documents[order],
            counts=counts[order],
            lengths=np.array([encode_length(total) for total in totals], dtype=np.uint8),
            ranks=_ranks(asins),
            total=sum(totals),
        )

    def search(self, query: str) -> Hits:
        """The best 50 documents (position, score), best first; equal scores in the order of their asins."""
        hits = self._cache.get(query)
        if hits is None:
            hits = self._cache[query] = self._rank(query)
            if len(self._cache) > CACHED_QUERIES:
                self._cache.popitem(last=False)
        return hits

    def _rank(self, query: str) -> Hits:
        words = Counter(term(token) for token in tokens(query))
        numbers = [(self.vocabulary[word], times) for word, times in words.items() if word in self.vocabulary]
        if not numbers:
            return ()
        scores = self._scores(numbers)
        (hits,) = np.nonzero(scores)
        if len(hits) > TOP:
            bound = np.partition(scores[hits], len(hits) - TOP)[len(hits) - TOP]
            hits = hits[scores[hits] >= bound]
        hits = hits[np.lexsort((self.ranks[hits], -scores[hits]))][:TOP]
        return tuple(zip(hits.tolist(), scores[hits].tolist(), strict=True))

    def _scores(self, numbers: list[tuple[int, int]]) -> np.ndarray:
        """BM25 of every document, float64 (documents); `numbers` are (term, times in the query)."""
        spans = [slice(self.offsets[number], self.offsets[number + 1]) for number, _ in numbers]
        sizes = np.array([span.stop - span.start for span in spans])
        times = np.array([times for _, times in numbers])
        weights = times * np.log(1 + (self._filled - sizes + 0.5) / (sizes + 0.5))
        documents = np.concatenate([self.documents[span] for span in spans])
        counts = np.concatenate([self.counts[span] for span in spans])
        weight = np.repeat(weights, sizes)
        parts = weight - weight / (1 + counts * self._slowdown[documents])
        return np.bincount(documents, weights=parts, minlength=len(self.lengths))


class _Terms:
    """Numbers of terms, given out as they come; remembers each token's, so that a token is stemmed once."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def numbers(self, text: str) -> list[int]:
        """The numbers of a text's terms in order, stop words left out."""
        known = self._known
        found = tokens(text)
        for token in found:
            if token not in known:
                known[token] = self._number(term(token))
        return [number for token in found if (number := known[token]) >= 0]

    def _number(self, word: str) -> int:
        return self.vocabulary.setdefault(word, len(self.vocabulary)) if word else -1


def _saturation(mean_length: float) -> np.ndarray:
    """1 / (k1 · (1 − b + b · length / mean length)) for each of the 256 length codes; float64 (256)."""
    lengths = np.array([decode_length(code) for code in range(256)], dtype=np.float64)
    return 1 / (K1 * (1 - B + B * lengths / max(mean_length, 1e-9)))


def _ranks(asins: Sequence[str]) -> np.ndarray:
    ranks = np.empty(len(asins), dtype=np.int32)
    ranks[sorted(range(len(asins)), key=asins.__getitem__)] = np.arange(len(asins), dtype=np.int32)
    return ranks


def _ints(values: array[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def encode_length(length: int) -> int:
    """Lucene's one-byte code of a document length: exact below 40, then four significant bits."""
    if length < 24:
        return length
    rest = length - 24
    shift = rest.bit_length() - 4
    return 24 + (rest if shift < 0 else (rest >> shift) & 7 | (shift + 1) << 3)


def decode_length(code: int) -> int:
    """The length that a code stands for: the smallest which has it."""
    if code < 24:
        return code
    rest = code - 24
    shift = (rest >> 3) - 1
    return 24 + (rest if shift < 0 else (rest & 7 | 8) << shift)
