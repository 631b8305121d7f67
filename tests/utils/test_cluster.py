"""Addresses of Ray clusters: mistakes are one line, without waiting for Ray."""

from __future__ import annotations

import builtins

import pytest

from eef.errors import ClusterError, ConfigError
from eef.utils import cluster


def test_ray_is_an_extra(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *args, **options):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ConfigError, match="needs the package `ray`") as caught:
        cluster.join("auto")
    assert caught.value.hint == "install it: `pip install 'eef[ray]'`"


@pytest.mark.parametrize(
    ("address", "kind", "message", "hint"),
    [
        (
            "127.0.0.1:1",
            ClusterError,
            "no Ray cluster answers at `127.0.0.1:1`",
            "`ray start --head`",
        ),
        ("no-such-host.invalid:6379", ClusterError, "no Ray cluster answers at", "`--ray local`"),
        ("127.0.0.1:99999999", ClusterError, "no Ray cluster answers at", "`ray start --head`"),
        ("somewhere", ConfigError, "expected `auto`, `local` or HOST:PORT", "`ray status`"),
        ("host:port", ConfigError, "expected `auto`, `local` or HOST:PORT", "`ray status`"),
        ("ray://host:10001", ConfigError, "address of a Ray client server", "`ray job submit`"),
    ],
)
def test_an_address_where_there_is_no_cluster(address, kind, message, hint):
    with pytest.raises(kind, match=message) as caught:
        cluster.join(address)
    assert hint in caught.value.hint
