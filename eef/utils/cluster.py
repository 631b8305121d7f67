"""Ray clusters: joining one, what it has, and its errors in one line. Ray is imported on joining.

A process joins the cluster that `--ray` names; the processes it starts find it in the environment
variable `EEF_RAY`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eef.errors import ClusterError, ConfigError
from eef.utils.compute import available_cores
from eef.utils.extras import missing_package

VARIABLE = "EEF_RAY"
_SECONDS_TO_CONNECT = 5.0
_START = "start one with `ray start --head`, or use `--ray local` on this machine alone"


def join(address: str | None = None) -> Any:
    """The module `ray`, connected to a cluster: once per process, and left when it ends.

    `address` is `auto` (the cluster that this machine belongs to), `local` (a cluster of this
    process alone) or `HOST:PORT`; by default that of `EEF_RAY`, or `auto`.

    ConfigError if Ray is missing or the address malformed, ClusterError if there is no cluster, or
    if it runs another version of Ray or Python.
    """
    loaded: Any = sys.modules.get("ray")
    if loaded is not None and loaded.is_initialized():
        return loaded
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get(VARIABLE) or "auto"
    _check_address(address)
    try:
        import ray
    except ImportError:
        raise missing_package("ray", "a Ray cluster") from None
    mine: dict[str, Any] = {"num_cpus": available_cores()} if address == "local" else {}
    try:
        with _own_signal_handlers():
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level="ERROR",
                **mine,
            )
    except ConnectionError:
        raise _no_answer(address) from None
    except (RuntimeError, ValueError, OSError) as error:
        raise _refusal(address, error) from None
    os.environ[VARIABLE] = ray.get_runtime_context().gcs_address
    return ray


def require_resources(ray: Any, wanted: Mapping[str, float], purpose: str) -> None:
    """ClusterError unless some node of the cluster has the wanted resources, free or not."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return
    needed = " and ".join(describe_amount(name, amount) for name, amount in wanted.items())
    most = ", ".join(
        describe_amount(name, max((node.get(name, 0) for node in nodes), default=0))
        for name in wanted
    )
    raise ClusterError(
        f"{purpose} needs {needed}, and no node of the Ray cluster has that (at most {most})",
        hint="add such a node to the cluster, or ask for less",
    )


def node_has_ended(ray: Any, node: str) -> bool:
    """Whether a node of the cluster has ended, as far as the cluster has noticed."""
    return not any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def enter_directory(path: str) -> None:
    """Work where the driver does, so that relative paths of a recipe lead to the same files.

    ConfigError if this node has no such directory.
    """
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(
            f"node {socket.gethostname()} has no directory `{path}` ({error.strerror})",
            hint="start `eef` in a directory on a disk that every node sees under one path",
        ) from None


def describe_amount(name: str, amount: float) -> str:
    """`2 CPUs`, `1 GPU`."""
    return f"{amount:g} {name}" if amount == 1 else f"{amount:g} {name}s"


def _check_address(address: str) -> None:
    """Look whether something listens: Ray itself waits for minutes, and ends the process."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ConfigError(
            f"`--ray` is {address!r}, the address of a Ray client server",
            hint="start `eef` on a node of the cluster (`ray job submit`), with `--ray auto`",
        )
    if not host or not port.isdecimal():
        raise ConfigError(
            f"`--ray` is {address!r}; expected `auto`, `local` or HOST:PORT",
            hint="`ray status` prints the address of a running cluster",
        )
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(
            f"no Ray cluster answers at `{address}` ({reason})",
            hint=_START,
        ) from None


def _no_answer(address: str) -> ClusterError:
    """The error for a cluster that did not answer. Ray gives no reason."""
    if address in ("auto", "local"):
        return ClusterError(f"there is no Ray cluster at `{address}`", hint=_START)
    return ClusterError(  # `_check_address` has seen that something listens
        f"no Ray cluster answers at `{address}`, or it asks for a token",
        hint="check the address, or use `--ray auto` on a node of the cluster; with Ray's token "
        "authentication, `export RAY_AUTH_MODE=token`, and the token in `~/.ray/auth_token`",
    )


def _refusal(address: str, error: Exception) -> ClusterError:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        hint = "run `eef` with the cluster's versions of Ray and Python, on every node"
    else:
        hint = _START
    return ClusterError(f"cannot join the Ray cluster at `{address}`: {text[:300]}", hint=hint)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
