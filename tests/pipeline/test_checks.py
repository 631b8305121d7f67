"""Fingerprints: what makes numbers of two runs incomparable."""

from __future__ import annotations

import pytest

from eef.envs.toy import ToyEnv
from eef.pipeline.checks import differences
from tests.fakes.scripted_run import start_run


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"engine": 1, "inference": "local"}, {"engine": 1, "inference": "vllm"}, []),
        ({"engine": 1, "dtype": "float32"}, {"engine": 2, "dtype": "bfloat16"}, ["engine"]),
        # runs of an older development version name their inference engine `engine`
        ({"engine": "vllm", "engine_version": "0.32"}, {"engine": 1, "inference": "vllm"}, []),
        ({"env": "a"}, {"env": "b", "torch": "2"}, ["env"]),
    ],
)
def test_the_environment_is_compared_and_what_computes_is_not(one, other, expected):
    assert differences(one, other) == differences(other, one) == expected


def test_nothing_replaces_what_the_environment_states(tmp_path, monkeypatch):
    stated = {"env": "toy", "engine": 7, "dtype_of_pages": "text"}
    monkeypatch.setattr(ToyEnv, "fingerprint", lambda self: stated)
    fingerprint = start_run(tmp_path / "run").run.fingerprint
    assert {key: fingerprint[key] for key in stated} == stated
    assert fingerprint["inference"] == "local"
