"""Tests against Ray: `make test-ray` runs them in an environment of their own."""

from __future__ import annotations

import os

import pytest

from eef.utils import cluster
from tests.fakes import ROOT

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_module():
    """Ray, whose workers find the package and the tests."""
    ray = pytest.importorskip("ray")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    yield ray
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def two_nodes(ray_module):
    """A cluster whose first node has no room for work, and one with two CPUs that may be killed."""
    from ray.cluster_utils import Cluster

    settings = {  # a node that answers slowly is not dead; one that refuses connections is
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 120_000,
        "health_check_failure_threshold": 5,
        "enable_worker_prestart": False,  # processes that no test uses
        "prestart_worker_first_driver": False,
    }
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=2)
    os.environ[cluster.VARIABLE] = nodes.address
    cluster.join(nodes.address)
    yield nodes
    ray_module.shutdown()
    nodes.shutdown()
    os.environ.pop(cluster.VARIABLE, None)
