"""The listening socket of a server on this machine."""

from __future__ import annotations

import socket

from eef.errors import ConfigError

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 stands for any free port.

    ConfigError if the address cannot be bound.
    """
    # asyncio disables Nagle's algorithm only if the socket names its protocol; otherwise each
    # answer takes 40 ms.
    listener = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP
    )
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        return listener
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}",
            hint="use `--port 0` for a free port, or end the program that uses it",
        ) from None
