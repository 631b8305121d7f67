"""JSON and JSONL files: atomic writes, torn lines, and errors that name file and line."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import DataError, StoreError
from eef.utils.jsonl import (
    WHEN_FULL,
    GrowingJsonl,
    append_jsonl,
    append_line,
    disk_errors,
    numbered_records,
    read_json,
    read_jsonl,
    repair_tail,
    write_json,
    write_jsonl,
    write_text,
)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none()))
def test_json_round_trip(value):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "value.json"
        write_json(path, {"before": 1})
        write_json(path, value)
        assert read_json(path) == value
        assert [each.name for each in Path(name).iterdir()] == ["value.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    write_json(path, 1)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        write_json(path, 2)
    assert read_json(path) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_unreadable_json_is_an_error_with_its_path(tmp_path):
    with pytest.raises(DataError, match=r"no such file `.*missing.json`"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken.json` is not JSON"):
        read_json(tmp_path / "broken.json")


def test_jsonl_appends_and_skips_blank_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": "\u2028\x85\r"})
    path.write_bytes(path.read_bytes() + b"\n  \n")
    append_jsonl(path, {"b": "ü"})
    assert read_jsonl(path) == [{"a": "\u2028\x85\r"}, {"b": "ü"}]
    assert "ü" in path.read_text(encoding="utf-8")
    path.write_bytes(path.read_bytes() + b'{"c"')
    assert len(read_jsonl(path, torn_ok=True)) == 2
    with pytest.raises(DataError, match="line 5"):
        read_jsonl(path)


def test_a_record_that_fails_midway_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def records():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, records())
    assert read_jsonl(path) == [{"a": 1}]
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


def test_json_is_indented_unless_one_line_is_asked_for(tmp_path):
    write_json(tmp_path / "many.json", {"a": [1]})
    write_json(tmp_path / "one.json", {"a": [1]}, indent=None)
    assert (tmp_path / "many.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert (tmp_path / "one.json").read_text() == '{"a": [1]}\n'


@pytest.mark.parametrize("write", [write_json, append_jsonl])
def test_numbers_that_json_does_not_have_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "a", {"x": float("nan")})


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "größer")
    assert (tmp_path / "a.txt").read_bytes() == "größer".encode()


def test_a_lone_surrogate_is_escaped(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": "\ud800ü"})
    assert path.read_bytes() == b'{"a": "\\ud800\\u00fc"}\n'
    assert read_jsonl(path) == [{"a": "\ud800ü"}]


def test_an_interrupted_append_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": 1})
    before = path.read_bytes()

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with FileIO(path, "a") as file, pytest.raises(KeyboardInterrupt):
        append_line(file, path, {"a": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("tail", "removed", "left"),
    [
        (b"", 0, [1]),
        (b'{"n": 2}\n', 0, [1, 2]),
        (b'{"n": 2}', 0, [1, 2]),
        (b'{"n": 2', 1, [1]),
        (b"[2]", 1, [1]),
    ],
)
def test_a_torn_last_line_is_moved_aside(tail, removed, left, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + tail)
    assert repair_tail(path) == removed
    assert [record["n"] for record in read_jsonl(path)] == left
    assert path.read_bytes().endswith(b"\n")
    torn = tmp_path / "rows.jsonl.torn"
    assert (torn.read_bytes() if torn.exists() else b"") == (tail + b"\n") * removed
    assert repair_tail(path) == 0


def test_an_empty_file_has_no_torn_line(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    assert repair_tail(tmp_path / "rows.jsonl") == 0


def test_records_have_the_numbers_of_their_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert list(numbered_records(path, torn_ok=False)) == [(2, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "problem"), [("{", "not JSON"), ("3", "a JSON int; expected an object")]
)
def test_a_malformed_line_is_an_error_even_if_a_torn_one_is_allowed(line, problem, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        read_jsonl(path, torn_ok=True)
    assert caught.value.message.startswith(f"`{path}`, line 2: {problem}")
    assert caught.value.hint == "write one JSON object per line"


def test_a_directory_cannot_be_read_or_replaced(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_json(tmp_path)
    with pytest.raises(StoreError, match="cannot write"):
        write_json(tmp_path, {})
    with pytest.raises(StoreError, match="cannot write"):
        append_jsonl(tmp_path / "none" / "rows.jsonl", {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_only_a_full_disk_gets_the_hint_to_free_space(number):
    with pytest.raises(StoreError) as caught, disk_errors(Path("a")):
        raise OSError(number, os.strerror(number))
    assert caught.value.message == f"cannot write `a`: {os.strerror(number)}"
    assert caught.value.hint == (WHEN_FULL if number == errno.ENOSPC else "")


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5)), max_size=5))
def test_jsonl_round_trip(records):
    with tempfile.TemporaryDirectory() as name:
        written, appended = Path(name) / "written", Path(name) / "appended"
        write_jsonl(written, records)
        appended.touch()
        for record in records:
            append_jsonl(appended, record)
        assert read_jsonl(written) == read_jsonl(appended) == records
        assert len(written.read_bytes().splitlines()) == len(records)
        assert [json.loads(line) for line in written.read_text().splitlines()] == records


def test_writers_of_one_file_do_not_take_each_others_text(tmp_path):
    """Each write leaves one of the texts; none fails because another has moved its file."""
    path, errors = tmp_path / "value.json", []

    def write(number):
        try:
            for _ in range(30):
                write_json(path, [number] * 1000)
        except StoreError as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert len(set(read_json(path))) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["value.json"]


def reread(path):
    """The records of a file, read from the start by another reader."""
    return GrowingJsonl(path, dict).read()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers()),
            st.sampled_from(
                [("blank",), ("half",), ("rest",), ("replace",), ("cut",), ("remove",)]
            ),
        ),
        max_size=30,
    )
)
def test_a_growing_file_is_read_as_if_from_its_start(changes):
    """Whatever happens to the file between two reads: appends, torn lines, replacement, removal."""
    with tempfile.TemporaryDirectory() as folder:
        path, parsed = Path(folder) / "rows.jsonl", []
        rows = GrowingJsonl(path, lambda record: parsed.append(record) or record)
        for kind, *value in changes:
            data = path.read_bytes() if path.exists() else b""
            torn = b"" if data.endswith(b"\n") or not data else b"\n"
            if kind == "append":
                path.write_bytes(data + torn + json.dumps({"a": value[0]}).encode() + b"\n")
            elif kind == "blank":
                path.write_bytes(data + b"\n" if not torn else data)
            elif kind == "half" and not torn:
                path.write_bytes(data + b'{"b": ')
            elif kind == "rest" and data.endswith(b'{"b": '):
                path.write_bytes(data + b"2}\n")
            elif kind == "replace":
                write_jsonl(path, [{"c": 1}, {"c": 2}])
            elif kind == "cut":
                path.write_bytes(b"".join(data.splitlines(keepends=True)[:-1]))
            elif kind == "remove":
                path.unlink(missing_ok=True)
            if kind == "append" and data.endswith(b'{"b": '):
                path.write_bytes(data)  # a torn line stays the last one
            assert rows.read() == reread(path)


def test_a_growing_file_parses_each_record_once(tmp_path):
    path, parsed = tmp_path / "rows.jsonl", []
    rows = GrowingJsonl(path, lambda record: parsed.append(record["a"]) or record["a"])
    for number in range(5):
        append_jsonl(path, {"a": number})
        assert rows.read() == [(each + 1, each) for each in range(number + 1)]
    assert parsed == [0, 1, 2, 3, 4]


def test_a_growing_file_is_read_up_to_a_malformed_line_and_again_when_it_is_mended(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = GrowingJsonl(path, dict)
    path.write_text('{"a": 1}\nnothing\n')
    for _ in range(2):
        with pytest.raises(DataError, match="line 2: not JSON"):
            rows.read()
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert rows.read() == [(1, {"a": 1}), (2, {"a": 2})]


def test_a_growing_file_names_the_line_that_is_refused(tmp_path):
    def refuse(record):
        raise StoreError("no such version", hint="update it")

    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": 1})
    with pytest.raises(DataError, match=r"rows.jsonl`, line 1: no such version"):
        GrowingJsonl(path, refuse).read()


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "elsewhere" / "target.json"
    link.symlink_to(target)
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert read_json(target) == {"a": 1}


def test_what_is_not_a_regular_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StoreError, match="pipe`: it is not a regular file"):
        write_text(pipe, "text")
    assert pipe.is_fifo()
