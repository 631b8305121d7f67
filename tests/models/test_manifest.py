"""Manifests: which files belong to a checkpoint, and what a model was built from."""

from __future__ import annotations

import json

import pytest

from eef.errors import DataError
from eef.models.manifest import (
    MANIFEST_FILE,
    REMOVED_FILE,
    read_manifest,
    training_tasks,
    weight_files,
)


def test_a_manifest_lists_the_weights_and_the_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    record = {"training_tasks": ["toy/1"], "sha256": {"a.safetensors": "0"}}
    (tmp_path / "base" / MANIFEST_FILE).write_text(json.dumps(record))
    assert weight_files(tmp_path / "base") == [tmp_path / "base" / "a.safetensors"]
    assert list(training_tasks("hf/./base")) == list(training_tasks("./base")) == ["toy/1"]
    assert "toy/1" not in training_tasks("base")  # the shipped student is loaded by that name
    assert list(training_tasks("hf/no/where")) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (REMOVED_FILE, "{}", "was not kept"),
        (MANIFEST_FILE, "[]", "expected an object"),
        ("config.json", "{}", "no complete checkpoint"),
    ],
)
def test_a_checkpoint_without_a_usable_manifest_is_reported(name, text, problem, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        read_manifest(tmp_path)
