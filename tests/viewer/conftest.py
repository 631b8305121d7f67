"""A finished run, and a cache directory for the indexes of the tests."""

from __future__ import annotations

import pytest

from tests.fakes.scripted_run import finish, start_run


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def with_acts(tmp_path_factory):
    """The directory of a finished run with a policy gradient, in groups from tasks and states."""
    directory = tmp_path_factory.mktemp("acts") / "run"
    changes = {
        "methods": ["bc", "eef+grpo"],
        "rounds": 1,
        "options": {"eef+grpo": {"group_size": 4, "group_states": 2}},
        "budget": {"rollouts_per_task": 8},
        "tasks": {"train": 20, "test": 4},
    }
    return finish(start_run(directory, **changes)).run.path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of a finished run; tests that change it copy it."""
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.path
