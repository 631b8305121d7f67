"""An export replaces an export and nothing else."""

import shutil
import threading
import time

import pytest

from eef.errors import StoreError
from eef.exporters.directory import RECORD_FILE, write_export


def writes(*names, text="new"):
    def write(directory):
        for name in names:
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)

    return write


def files(directory):
    found = sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    return [name for name in found if not name.startswith(RECORD_FILE)]


def test_an_export_replaces_the_files_of_the_earlier_one_and_keeps_all_others(tmp_path):
    out = tmp_path / "a" / "b"
    write_export(out, "trl", writes("README.md", "v0/train.json", "train-1.jsonl", text="old"))
    (out / "trained").mkdir()
    (out / "trained" / "model").write_text("mine")
    (out / "train-2.jsonl").write_text("mine")
    paths = write_export(out, "trl", writes("README.md", "train.jsonl"))
    assert paths == [out / "README.md", out / "train.jsonl"]
    assert files(out) == ["README.md", "train-2.jsonl", "train.jsonl", "trained/model"]
    assert (out / "README.md").read_text() == "new"
    assert (out / "train-2.jsonl").read_text() == "mine"


def test_a_file_that_no_export_wrote_is_not_overwritten(tmp_path):
    write_export(tmp_path, "trl", writes("README.md", text="old"))
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(StoreError, match="it exists, and") as error:
        write_export(tmp_path, "trl", writes("README.md", "train.jsonl"))
    assert "--out" in error.value.hint
    assert (tmp_path / "README.md").read_text() == "old"
    assert (tmp_path / "train.jsonl").read_text() == "mine"
    assert files(tmp_path) == ["README.md", "train.jsonl"]


def test_a_link_to_nowhere_is_a_file_too(tmp_path):
    (tmp_path / "train.jsonl").symlink_to("elsewhere")
    with pytest.raises(StoreError, match="it exists"):
        write_export(tmp_path, "trl", writes("train.jsonl"))


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path):
    write_export(tmp_path, "trl", writes("train.jsonl", text="old"))

    def fails(directory):
        (directory / "train.jsonl").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, "trl", fails)
    assert files(tmp_path) == ["train.jsonl"]
    assert (tmp_path / "train.jsonl").read_text() == "old"


def test_another_export_in_the_directory_keeps_its_own_files(tmp_path):
    write_export(tmp_path, "inspect of round1", writes("README.md", "round1.eval"))
    write_export(tmp_path, "inspect of round2", writes("README.md", "round2.eval", text="second"))
    assert files(tmp_path) == ["README.md", "round1.eval", "round2.eval"]
    write_export(tmp_path, "inspect of round1", writes("round1.eval"))
    assert (tmp_path / "README.md").read_text() == "second", "the other export has it"


def test_a_file_may_become_a_directory_and_the_reverse_is_refused(tmp_path):
    write_export(tmp_path, "trl", writes("v0"))
    assert write_export(tmp_path, "trl", writes("v0/train.json")) == [tmp_path / "v0/train.json"]
    with pytest.raises(StoreError, match="it exists"):
        write_export(tmp_path, "trl", writes("v0"))
    assert files(tmp_path) == ["v0/train.json"]
    write_export(tmp_path, "trl", writes("train.json"))
    assert not (tmp_path / "v0").exists()


def test_a_file_in_place_of_a_subdirectory_is_not_overwritten(tmp_path):
    (tmp_path / "v0").write_text("mine")
    with pytest.raises(StoreError, match="v0` is a file"):
        write_export(tmp_path, "trl", writes("README.md", "v0/train.json"))
    assert files(tmp_path) == ["v0"]


def test_what_was_removed_by_hand_does_not_matter(tmp_path):
    write_export(tmp_path, "trl", writes("v0/a.json", "b.json"))
    (tmp_path / "v0/a.json").unlink()
    (tmp_path / "v0").rmdir()
    (tmp_path / "v0").write_text("mine")
    write_export(tmp_path, "trl", writes("c.json"))
    assert files(tmp_path) == ["c.json", "v0"]


def test_the_next_export_repairs_one_that_was_killed_while_it_moved_files(tmp_path, monkeypatch):
    write_export(tmp_path, "trl", writes("a.json", "b.json", text="old"))

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            write_export(tmp_path, "trl", writes("b.json", "c.json"))
    (tmp_path / ".eef-export-left").mkdir()
    write_export(tmp_path, "trl", writes("c.json", "d.json"))
    assert files(tmp_path) == ["c.json", "d.json"]


def test_exports_to_one_directory_wait_for_each_other(tmp_path):
    inside, most = 0, 0

    def slow(directory):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        (directory / "train.jsonl").write_text("x")
        inside -= 1

    threads = [
        threading.Thread(target=write_export, args=(tmp_path, "trl", slow)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, files(tmp_path)) == (1, ["train.jsonl"])


@pytest.mark.parametrize(
    "listed",
    [
        '{"exports": {"trl": ["../mine"]}}',
        '{"exports": {"trl": ["/etc/hosts"]}}',
        '{"exports": {"trl": [""]}}',
        '{"exports": {"trl": ["."]}}',
        '{"exports": {"trl": ["a\\u0000"]}}',
        '{"exports": {"trl": [1]}}',
        '{"exports": {"trl": "train.jsonl"}}',
        '{"exports": []}',
        "{}",
        "{",
    ],
)
def test_a_record_that_names_files_elsewhere_is_refused(listed, tmp_path):
    out = tmp_path / "out"
    write_export(out, "trl", writes("train.jsonl"))
    (tmp_path / "mine").write_text("mine")
    (out / RECORD_FILE).write_text(listed)
    with pytest.raises(StoreError, match=r"does not list the files of exports|is not JSON"):
        write_export(out, "trl", writes("other.jsonl"))
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_directory_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StoreError, match="cannot write"):
        write_export(tmp_path / "out", "trl", writes("train.jsonl"))
