"""An export replaces an export and nothing else."""

import json

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
    return [name for name in found if name != RECORD_FILE]


def test_an_export_replaces_the_files_of_the_earlier_one_and_keeps_all_others(tmp_path):
    out = tmp_path / "a" / "b"
    write_export(out, writes("README.md", "v0/train.json", "train-1.jsonl", text="old"))
    (out / "trained").mkdir()
    (out / "trained" / "model").write_text("mine")
    (out / "train-2.jsonl").write_text("mine")
    paths = write_export(out, writes("README.md", "train.jsonl"))
    assert paths == [out / "README.md", out / "train.jsonl"]
    assert files(out) == ["README.md", "train-2.jsonl", "train.jsonl", "trained/model"]
    assert (out / "README.md").read_text() == "new"
    assert (out / "train-2.jsonl").read_text() == "mine"


def test_a_file_that_no_export_wrote_is_not_overwritten(tmp_path):
    write_export(tmp_path, writes("README.md", text="old"))
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(StoreError, match="it exists, and no export wrote it") as error:
        write_export(tmp_path, writes("README.md", "train.jsonl"))
    assert "--out" in error.value.hint
    assert (tmp_path / "README.md").read_text() == "old"
    assert (tmp_path / "train.jsonl").read_text() == "mine"
    assert files(tmp_path) == ["README.md", "train.jsonl"]


def test_a_link_to_nowhere_is_a_file_too(tmp_path):
    (tmp_path / "train.jsonl").symlink_to("elsewhere")
    with pytest.raises(StoreError, match="it exists"):
        write_export(tmp_path, writes("train.jsonl"))


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path):
    write_export(tmp_path, writes("train.jsonl", text="old"))

    def fails(directory):
        (directory / "train.jsonl").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, fails)
    assert files(tmp_path) == ["train.jsonl"]
    assert (tmp_path / "train.jsonl").read_text() == "old"


@pytest.mark.parametrize("listed", [["../mine"], ["/etc/hosts"], [""], [1], "train.jsonl", None])
def test_a_record_that_names_files_elsewhere_is_refused(listed, tmp_path):
    out = tmp_path / "out"
    write_export(out, writes("train.jsonl"))
    (tmp_path / "mine").write_text("mine")
    (out / RECORD_FILE).write_text(json.dumps({"files": listed}))
    with pytest.raises(StoreError, match="does not list the files of an export"):
        write_export(out, writes("other.jsonl"))
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_directory_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StoreError, match="cannot write"):
        write_export(tmp_path / "out", writes("train.jsonl"))
