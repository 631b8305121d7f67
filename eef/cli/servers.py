"""Servers: an environment offered to other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from eef.cli.console import handle_interrupt, put, tell
from eef.cli.indexes import bars
from eef.cli.runs import Overrides, as_table
from eef.envs.registry import make_env, prepare_env
from eef.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_env(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of an environment.", show_default=False)
    ],
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine's own.")
    ] = LOOPBACK[0],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 36001,
    sessions: Annotated[
        int, typer.Option(min=1, help="Sessions at a time; beyond, `/create` gives 503.")
    ] = 1024,
    idle: Annotated[
        float, typer.Option(min=1, help="Seconds without a request that end a session.")
    ] = 3600,
) -> None:
    """Serve an environment over HTTP in AgentGym's verbs, so that its clients can play it; prints the address.

    `/create`, `/reset`, `/step`, `/observation`, `/available_actions`, `/instruction_text`, `/list_envs`, `/close`.
    There are no passwords: whoever reaches the address can play.

    Example: `eef serve-env webshop --set data=webshop/data --port 36001`
    """
    try:
        from eef.envs.server import serve
    except ImportError as error:
        raise ConfigError(
            f"`eef serve-env` needs {error.name}", hint="pip install 'eef[serve]'"
        ) from None

    options = as_table(overrides)
    with handle_interrupt("stopped"):
        with bars() as progress:
            prepare_env(name, options, progress)
        env = make_env(name, options)
        if host not in LOOPBACK:
            tell(f"warning: on {host} everybody who reaches this machine can play")
        serve(env, host=host, port=port, limit=sessions, idle_s=idle, ready=put)
