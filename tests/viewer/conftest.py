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
def finished(tmp_path_factory):
    """The directory of a finished run; tests that change it copy it."""
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.path
