"""The cache directory: an own one, that of the user, or the default."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eef.utils.cache import cache_directory


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EEF_CACHE": "/own", "XDG_CACHE_HOME": "/user"}, "/own"),
        ({"XDG_CACHE_HOME": "/user"}, "/user/eef"),
        ({"EEF_CACHE": "", "XDG_CACHE_HOME": "/user"}, "/user/eef"),
        ({}, "/home/someone/.cache/eef"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other directories")
def test_the_cache_directory_is_set_by_the_environment(variables, expected, monkeypatch):
    for name in ("EEF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)
