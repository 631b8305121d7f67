"""`eef env`: check, serve and prepare environments."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from eef.cli.console import handle_interrupt, print_err, print_out, stderr_console
from eef.cli.execution import CONTINUES
from eef.cli.options import EnvOverrides, env_options
from eef.cli.progress import show_bars
from eef.env import Env
from eef.env_check import check_env
from eef.envs.registry import make_env, make_expert, prepare_env
from eef.envs.simulators.env import PooledEnv
from eef.errors import ConfigError, EefError, EnvError
from eef.policies.keys import LOOPBACK
from eef.policy import Policy
from eef.utils.extras import require_package

EnvName = Annotated[
    str, typer.Argument(metavar="NAME", help="An environment, e.g. `webshop`.", show_default=False)
]


def check(
    name: EnvName,
    overrides: EnvOverrides = None,
    split: Annotated[str, typer.Option(help="The split whose first tasks are played.")] = "train",
    actions: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            help="An action to execute, in the order given; may be repeated. Actions that have an "
            "effect make the check stricter.",
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=0, help="Random episodes for each task, besides the expert's.")
    ] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random episodes.")] = 0,
) -> None:
    """Check an environment against the protocol.

    Plays the first tasks of a split: the given actions, the scripted expert if there is one, and
    random episodes of actions from the prompt, the expert and the observations. Each episode is
    played again, in the same environment and in a clone of it. Prints what was checked: that
    episodes repeat exactly, every action is answered, scores are in [0, 1], snapshots work, and so
    on.

    Example: `eef env check webshop --set products_per_page=5`

    Example: `eef env check toy --action right --action "take red"`
    """
    env = make_env(name, env_options(overrides))
    with closing(env), stderr_console().status("checking") as status:
        found = check_env(
            env,
            split=split,
            actions=actions or (),
            expert=_scripted_expert(env),
            episodes=episodes,
            seed=seed,
            on_pass=lambda passed: status.update(Text(passed)),
        )
    for line in found.passed:
        print_out(line)
    print_err(str(found))
    if not env.replayable:
        print_err(f"{env.name} cannot be replayed: methods that branch from states are refused")
    if not found.wins:
        print_err(
            "warning: no episode was won; name the actions of a solution with `--action`, so that "
            "they are checked too"
        )


def _scripted_expert(env: Env) -> Policy | None:
    try:
        return make_expert(env, "strong")
    except EefError:
        return None


def serve(
    name: EnvName,
    overrides: EnvOverrides = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default accepts only this machine.")
    ] = LOOPBACK[0],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 36001,
    sessions: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of sessions; beyond it `/create` returns 503."),
    ] = 1024,
    idle: Annotated[
        float, typer.Option(min=1, help="Seconds without a request after which a session ends.")
    ] = 3600,
) -> None:
    """Serve an environment over HTTP.

    The server implements AgentGym's endpoints, so AgentGym's clients can play it: `/create`,
    `/reset`, `/step`, `/observation`, `/available_actions`, `/instruction_text`, `/list_envs` and
    `/close`. Another endpoint, `/restore`, opens a session in a recorded state. Clients name tasks
    by their index. The server has no authentication: anyone who can reach the address can play.
    Prints the address.

    Example: `eef env serve webshop --set data=webshop/data --port 36001`

    Example: `eef env serve my_package.desk:TicketDesk`
    """
    for package in ("starlette", "uvicorn"):
        require_package(package, "serving an environment")
    from eef.envs.server import serve as serve_env

    options = env_options(overrides)
    with handle_interrupt("stopped"):
        with show_bars() as on_progress:
            prepare_env(name, options, on_progress)
        if host not in LOOPBACK:
            print_err(f"warning: anyone who can reach this machine can play on {host}")
        with closing(make_env(name, options)) as env:
            serve_env(env, host=host, port=port, limit=sessions, idle_s=idle, ready=print_out)


def prepare(
    name: EnvName,
    overrides: EnvOverrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="WebShop: where indexes are kept (`env.index` of a recipe).  [default: the cache]",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="WebShop: build the index again, even if it exists.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="WebShop: compare every file with its checksum.")
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="Simulators: the split whose tasks are solved.  [default: train]",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Simulators: only the first N tasks.  [default: all]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Prepare an environment's data ahead of a run.

    A run does the same before its first step. For `webshop`, the official files in the directory
    `data` are indexed on disk, so that a shop of a million products opens at once; prints the index
    directory. For `scienceworld` and `textworld-express`, the simulator's gold paths are generated,
    each is played, and those that do not win are printed with their reward. The cache is
    `$EEF_CACHE`; if that is unset, `eef` in the user's cache directory. The same command continues
    an interrupted preparation.

    Example: `eef env prepare webshop --set data=webshop/data`

    Example: `eef env prepare scienceworld --set tasks=boil --split dev`
    """
    options = env_options(overrides)
    with handle_interrupt(CONTINUES):
        if name == "webshop":
            _refuse(name, {"--split": split, "--tasks": tasks})
            _prepare_index(options, out, rebuild=rebuild, verify=verify)
            return
        _refuse(name, {"--out": out, "--rebuild": rebuild, "--verify": verify})
        env = make_env(name, options)
        if isinstance(env, PooledEnv):
            _prepare_gold_paths(env, split or "train", tasks)
        else:
            print_err(f"{name} needs no preparation")


def _refuse(name: str, options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value:
            raise ConfigError(f"`{option}` has no effect on `{name}`", hint="remove it")


def _prepare_index(
    options: dict[str, Any], out: Path | None, *, rebuild: bool, verify: bool
) -> None:
    from eef.envs.webshop.index import is_large, open_index
    from eef.envs.webshop.official import OfficialFiles

    data = options.pop("data", None)
    where = out or options.pop("index", None)
    if data is None:
        raise ConfigError(
            "a synthetic shop needs no preparation",
            hint="name the directory of WebShop's files: `--set data=DIR`",
        )
    _refuse("webshop's index", {f"--set {key}": True for key in options})
    files = OfficialFiles.find(Path(str(data)))
    with show_bars() as on_progress:
        index = open_index(
            files, Path(where) if where else None, rebuild=rebuild, on_progress=on_progress
        )
        if verify:
            index.verify(on_progress)
    print_err(f"{len(index.columns.read('record_ends')):,} products")
    if where is None and not is_large(files):
        print_err("hint: a catalog this small is read into memory unless `env.index` is set")
    print_out(str(index.directory))


def _prepare_gold_paths(env: PooledEnv, split: str, tasks: int | None) -> None:
    from eef.envs.simulators.gold_paths import GoldPaths

    chosen = list(env.tasks(split).head(tasks))
    with closing(env), show_bars() as on_progress:
        outcomes = GoldPaths(env).failing(chosen, on_progress)
    missing = [outcome for outcome in outcomes.values() if isinstance(outcome, EnvError)]
    for task, outcome in outcomes.items():
        text = outcome.message if isinstance(outcome, EnvError) else f"{outcome:.3f}"
        print_out(f"{task}\t{text}")
    print_err(
        f"{len(chosen) - len(missing)} gold paths; "
        f"{len(outcomes) - len(missing)} of them do not win"
    )
    if missing:
        print_err(f"{len(missing)} could not be generated ({missing[0].hint})")
