"""Records of the official files: found in a directory, streamed product by product.

The first stage of WebShop's data; `synthetic.py` makes the same records out of settings. Files may be larger than the
memory: of the products one is held at a time, of the notes their text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.errors import DataError
from eef.utils.progress import OnProgress, Progress, ignore_progress

CHUNK = 1 << 22
MAX_MEMBER = 1 << 26
_BLANK = " \t\n\r"
_AFTER = frozenset(",]} \t\n\r")
_HINT = "give a directory with WebShop's `items_shuffle*.json`, `items_ins_v2*.json`, `items_human_ins.json`"
_KINDS = {"[": "list", "{": "dict"}


@dataclass(frozen=True, slots=True)
class Records:
    """The contents of the three official files, in the official schema.

    items       `items_shuffle*.json`: one dict a product, in order
    attributes  `items_ins_v2*.json`: asin → {attributes, instruction?, instruction_attributes?}
    human       `items_human_ins.json`: asin → instruction records written by people
    """

    items: Iterable[Any]
    attributes: Mapping[str, Any]
    human: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """Where the three files lie; `human` may be missing. All of `data` is one catalog."""

    items: Path
    attributes: Path
    human: Path

    @classmethod
    def find(cls, data: Path) -> OfficialFiles:
        """The files beside the items file `data`, or in the directory `data`. Raises DataError.

        A suffix is shared: `items_shuffle_1000.json` goes with `items_ins_v2_1000.json`.
        """
        items = _find_items(data)
        suffix = items.stem.removeprefix("items_shuffle")
        attributes = items.with_name(f"items_ins_v2{suffix}.json")
        if not attributes.is_file():
            raise DataError(f"WebShop data: `{attributes}` is missing", hint=_HINT)
        return cls(items, attributes, items.with_name("items_human_ins.json"))

    def present(self) -> list[Path]:
        return [path for path in (self.items, self.attributes, self.human) if path.exists()]

    def records(
        self, *, start: int = 0, on_progress: OnProgress = ignore_progress
    ) -> tuple[JsonStream, Records]:
        """The products from byte `start` on as a stream, and the whole records. Raises DataError."""
        items = JsonStream(self.items, "[", start=start)
        notes = JsonStream(self.attributes, "{")
        human = _read_human(self.human) if self.human.exists() else {}
        return items, Records(
            (value for _, value in items), AttributeRecords.of(notes, on_progress), human
        )

    def digest(self, on_progress: OnProgress = ignore_progress) -> str:
        """A fingerprint of the data: the first 16 hex digits of the SHA-256 of the files' bytes."""
        total, done = hashlib.sha256(), 0
        size = sum(path.stat().st_size for path in self.present())
        for path in self.present():
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    total.update(chunk)
                    done += len(chunk)
                    on_progress(Progress("hashing the files", done, size))
        return total.hexdigest()[:16]


def _find_items(data: Path) -> Path:
    if data.is_file():
        return data
    if not data.is_dir():
        raise DataError(f"WebShop data: `{data}` is not a directory", hint=_HINT)
    found = sorted(data.glob("items_shuffle*.json"))
    if not found:
        raise DataError(f"WebShop data: no `items_shuffle*.json` in `{data}`", hint=_HINT)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"WebShop data: `{data}` has several catalogs ({names})", hint="give the file's path"
        )
    return found[0]


def _read_human(path: Path) -> dict[str, Any]:
    """Asin → list of records. Raises DataError."""
    return {asin or "": records for asin, records in JsonStream(path, "{")}


class AttributeRecords(Mapping[str, Any]):
    """Asin → notes, kept as the text they were read from and parsed when asked for."""

    def __init__(self, texts: dict[str, bytes]) -> None:
        self._texts = texts

    @classmethod
    def of(cls, stream: JsonStream, on_progress: OnProgress) -> AttributeRecords:
        texts: dict[str, bytes] = {}
        stream.raw = True
        for asin, text in stream:
            texts[asin or ""] = text.encode()
            if not len(texts) % 10_000:
                on_progress(Progress("reading attributes", stream.offset, stream.size))
        return cls(texts)

    def __getitem__(self, asin: str) -> Any:
        return json.loads(self._texts[asin])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class JsonStream:
    """The members of one large JSON list or object, one at a time: (key, value), the key None in a list.

    `opening` is what the file must hold ("[" or "{"). `start` is the `offset` to go on from: the byte after a
    member. With `raw` a value comes as the text it stands in. Every complaint (DataError) names the file, the entry,
    counted from `start` on, and the byte. A member is 64 MB at most. `members` is how many have come, `ended` whether
    these are all.
    """

    def __init__(self, path: Path, opening: str, *, start: int = 0, raw: bool = False) -> None:
        self.path, self.raw, self.size = path, raw, path.stat().st_size
        self._opening, self._start, self._read = opening, start, start
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended, self.members = "", 0, False, 0
        self.ended = False

    @property
    def offset(self) -> int:
        """The byte after the last member."""
        pending = len(self._decoder.getstate()[0])
        return self._read - pending - len(self._text[self._at :].encode())

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        closing = "]" if self._opening == "[" else "}"
        with self.path.open("rb") as self._file:
            self._file.seek(self._start)
            if not self._start:
                self._open()
            while (sign := self._next()) != closing:
                if self._start or self.members:
                    self._expect(sign, ",")
                member = self._member()
                self.members += 1
                yield member
            self.ended = True
            if self._peek_behind():
                raise self._wrong("something follows the end")

    def _peek_behind(self) -> str:
        """What follows the closing bracket; `offset` stays before it, so that one can go on from there."""
        while len(self._text) == self._at + 1 and not self._ended:
            self._more()
        return self._text[self._at + 1 :].strip(_BLANK)

    def _open(self) -> None:
        sign = self._next()
        if sign in _KINDS and sign != self._opening:
            raise DataError(
                f"WebShop data: `{self.path}` holds a {_KINDS[sign]}, expected a {_KINDS[self._opening]}"
            )
        self._expect(sign, self._opening)

    def _expect(self, sign: str, wanted: str) -> None:
        if sign != wanted:
            raise self._wrong(
                f"`{wanted}` expected, found {sign!r}" if sign else "the file ends too early"
            )
        self._at += 1

    def _member(self) -> tuple[str | None, Any]:
        if self._opening == "[":
            return None, self._value()
        self._next()
        key = self._value()
        if not isinstance(key, str):
            raise self._wrong(f"a key in quotes expected, found {key!r}")
        self._expect(self._next(), ":")
        return key, self._value(raw=self.raw)

    def _value(self, *, raw: bool = False) -> Any:
        self._next()
        what = "a number goes on oddly"  # or goes on in what is not read yet: `0.` begins `0.5`
        while True:
            try:
                value, end = self._parse(self._text, self._at)
                whole = isinstance(value, str | list | dict) or self._text[end : end + 1] in _AFTER
            except (ValueError, RecursionError) as error:
                whole, what = (
                    False,
                    str(error) if len(self._text) > self._at else "it ends too early",
                )
            if whole:
                text, self._at = self._text[self._at : end], end
                return text if raw else value
            if self._ended or len(self._text) - self._at > MAX_MEMBER:
                raise self._wrong(what)
            self._more()

    def _next(self) -> str:
        """The next character that is not blank, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Read on, as much again as is waiting: a long member is not parsed too often."""
        left = self._text[self._at :]
        data = self._file.read(max(CHUNK, len(left)))
        self._read += len(data)
        try:
            self._text, self._at = left + self._decoder.decode(data, final=not data), 0
        except UnicodeDecodeError as error:
            raise self._wrong(f"not UTF-8 ({error.reason})") from None
        self._ended = not data

    def _wrong(self, what: str) -> DataError:
        return DataError(
            f"WebShop data: `{self.path}` is not JSON: {what} (entry {self.members}, near byte {self.offset})",
            hint="the file may not have been fetched to its end",
        )
