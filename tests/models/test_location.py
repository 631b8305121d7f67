"""Where a model's name leads, and a hub that does not answer."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from eef.errors import ModelError
from eef.models.loading import load_tokenizer
from eef.models.location import SHIPPED, STUDENTS, hub_options


def test_every_shipped_student_has_an_environment():
    assert {path.name for path in STUDENTS.iterdir()} == set(SHIPPED)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An address at which no hub answers, and an empty cache."""
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield endpoint


def test_a_hub_that_does_not_answer_is_asked_once(no_hub, caplog):
    with pytest.raises(ModelError, match=f"cannot reach the hub at {no_hub}") as error:
        load_tokenizer("organization/model")
    assert "\n" not in error.value.message
    assert "connection" in error.value.hint
    assert not caplog.records


def test_a_model_in_the_cache_needs_no_hub(no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "config.json")
    assert hub_options("organization/model", "hf/organization/model") == {"local_files_only": True}


def test_a_directory_needs_no_hub(no_hub, tmp_path):
    assert hub_options(str(tmp_path), "x") == {}
