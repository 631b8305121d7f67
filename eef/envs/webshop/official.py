"""Records of the official files: located in a directory, streamed product by product.

`synthetic.py` generates records of the same form. Files may be larger than memory: one product is
held at a time, and attribute records are kept as text.
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
_HINT = (
    "give a directory with WebShop's `items_shuffle*.json`, `items_ins_v2*.json` and "
    "`items_human_ins.json`"
)
_KINDS = {"[": "list", "{": "dict"}


@dataclass(frozen=True, slots=True)
class Records:
    """The contents of the three official files, in the official schema.

    items       `items_shuffle*.json`: one dict per product, in order
    attributes  `items_ins_v2*.json`: asin → {attributes, instruction?, instruction_attributes?}
    human       `items_human_ins.json`: asin → instruction records written by people
    """

    items: Iterable[Any]
    attributes: Mapping[str, Any]
    human: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """The paths of the three files of one catalog; `human` may not exist."""

    items: Path
    attributes: Path
    human: Path

    @classmethod
    def find(cls, data: Path) -> OfficialFiles:
        """The files in the directory `data`, or beside the items file `data`.

        A suffix is shared: `items_shuffle_1000.json` belongs to `items_ins_v2_1000.json`. DataError
        if a file is missing, or if the directory holds several catalogs.
        """
        items = _find_items(data)
        suffix = items.stem.removeprefix("items_shuffle")
        attributes = items.with_name(f"items_ins_v2{suffix}.json")
        if not attributes.is_file():
            raise DataError(f"no such file `{attributes}`", hint=_HINT)
        return cls(items, attributes, items.with_name("items_human_ins.json"))

    def present(self) -> list[Path]:
        """The files that exist."""
        return [path for path in (self.items, self.attributes, self.human) if path.exists()]

    def records(
        self, *, start: int = 0, on_progress: OnProgress = ignore_progress
    ) -> tuple[JsonStream, Records]:
        """The stream of products from byte `start` on, and the records that consume it.

        DataError if a file is malformed.
        """
        items = JsonStream(self.items, "[", start=start)
        notes = JsonStream(self.attributes, "{")
        human = _read_human(self.human) if self.human.exists() else {}
        return items, Records(
            (value for _, value in items), AttributeRecords.of(notes, on_progress), human
        )

    def digest(self, on_progress: OnProgress = ignore_progress) -> str:
        """A fingerprint of the data: the first 16 hex digits of the SHA-256 of all files."""
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
        raise DataError(f"no such directory `{data}`", hint=_HINT)
    found = sorted(data.glob("items_shuffle*.json"))
    if not found:
        raise DataError(f"no such file `{data}/items_shuffle*.json`", hint=_HINT)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"`{data}` holds several catalogs ({names})", hint="give the path of one of these files"
        )
    return found[0]


def _read_human(path: Path) -> dict[str, Any]:
    """Asin → list of records. DataError if the file is malformed."""
    return {asin or "": records for asin, records in JsonStream(path, "{")}


class AttributeRecords(Mapping[str, Any]):
    """Asin → attributes record, kept as JSON text and parsed on access."""

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
    """The members of one large JSON list or object, one at a time, as (key, value).

    A list's keys are None. `opening` is the bracket that the file must start with ("[" or "{").
    `start` is an earlier stream's `offset` to resume from: the byte after a member. With `raw`, a
    value is its JSON text. `members` counts those read so far; `ended` is True after the last.

    DataError names the file, the member (counted from `start`) and the byte. A member may have at
    most MAX_MEMBER characters.

    A build resumes at a byte offset, which `ijson` does not support.
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
            if self._trailing_text():
                raise self._error("text follows the end")

    def _trailing_text(self) -> str:
        """The text after the closing bracket; `offset` stays before it, so that one can resume."""
        while len(self._text) == self._at + 1 and not self._ended:
            self._more()
        return self._text[self._at + 1 :].strip(_BLANK)

    def _open(self) -> None:
        sign = self._next()
        if sign in _KINDS and sign != self._opening:
            raise DataError(
                f"`{self.path}` holds a {_KINDS[sign]}; expected a {_KINDS[self._opening]}"
            )
        self._expect(sign, self._opening)

    def _expect(self, sign: str, wanted: str) -> None:
        if sign != wanted:
            raise self._error(
                f"expected `{wanted}`, found {sign!r}" if sign else "the file ends too early"
            )
        self._at += 1

    def _member(self) -> tuple[str | None, Any]:
        if self._opening == "[":
            return None, self._value()
        self._next()
        key = self._value()
        if not isinstance(key, str):
            raise self._error(f"expected a key in quotes, found {key!r}")
        self._expect(self._next(), ":")
        return key, self._value(raw=self.raw)

    def _value(self, *, raw: bool = False) -> Any:
        self._next()
        what = "malformed number"  # or it continues in the next chunk: `0.` is the start of `0.5`
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
                raise self._error(what)
            self._more()

    def _next(self) -> str:
        """The next character that is not blank; "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Read a chunk at least as long as the pending text, so a long member is parsed rarely."""
        left = self._text[self._at :]
        data = self._file.read(max(CHUNK, len(left)))
        self._read += len(data)
        try:
            self._text, self._at = left + self._decoder.decode(data, final=not data), 0
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8 ({error.reason})") from None
        self._ended = not data

    def _error(self, what: str) -> DataError:
        return DataError(
            f"`{self.path}` is not valid JSON: {what} (member {self.members}, near byte "
            f"{self.offset})",
            hint="the download may be incomplete; fetch the file again",
        )
