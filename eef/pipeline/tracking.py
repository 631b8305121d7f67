"""Tracking: losses, win rates, costs and counts of a run in experiment trackers (TensorBoard …).

A separate process logs through `accelerate.tracking`, so a tracker that fails, hangs or ends its
process does not stop the run. It logs what the run directory holds, and losses as they are
computed. `DIR/tracking/state.json` records what was logged to each tracker: a resumed run continues
the same tracked run, and no point is logged twice.

A run is one tracked run of the project `eef`. Names start with the method: `eef/loss` by update,
`eef/win_rate`, `eef/explore/…`, `eef/select/…` and `eef/cost/…` by round.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eef.errors import ConfigError, LockedError
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import Recipe, Tracker
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.rollouts.store import tail_of_store
from eef.utils.extras import missing_package, require_package
from eef.utils.jsonl import read_object, write_json
from eef.utils.locks import acquire_lock
from eef.utils.processes import SPAWN, end_process, start_process
from eef.utils.progress import OnProgress, Progress

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

_log = logging.getLogger(__name__)

PROJECT = "eef"
SECONDS_TO_END = 120.0
"""Time for trackers to log what is left when a run ends."""

_FOLDER, _STATE, _LOCK, _OUTPUT = "tracking", "state.json", "state.lock", "output.txt"
_SAMPLE, _TEXT = 8, 400  # rollouts in a table, and characters of a text in it
_COLUMNS = ("rollout", "task", "won", "reward", "steps", "actions", "last observation")
_PACKAGES: dict[Tracker, str] = {"comet_ml": "comet-ml"}


def check_trackers(names: Sequence[Tracker]) -> None:
    """ConfigError if the package of a tracker is not installed."""
    if names:
        require_package("accelerate", "`track`")
    for name in names:
        from importlib.util import find_spec

        if find_spec(name) is None:
            if name == "tensorboard":
                raise missing_package(name, "`track` with 'tensorboard'")
            package = _PACKAGES.get(name, name)
            raise ConfigError(
                f"`track` with {name!r} needs the package `{package}`",
                hint=f"install it: `pip install {package}`, or remove it from `track`",
            )


@contextmanager
def tracked(run: RunDirectory, on_progress: OnProgress) -> Iterator[OnProgress]:
    """A callback that also reports to the recipe's trackers, if there are any.

    At the end of the block, trackers have two minutes to log what is left.
    """
    if not run.recipe.track:
        yield on_progress
        return
    tracking = _Tracking(run.path)

    def report(progress: Progress) -> None:
        on_progress(progress)
        tracking.report(progress)

    try:
        yield report
    finally:
        tracking.close()


class _Tracking:
    """The process that tracks a run, seen from the process that executes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # its feeder thread writes, so a process that hangs never blocks this one
        self._messages = SPAWN.Queue()
        self._warnings, theirs = SPAWN.Pipe(duplex=False)
        arguments = (path, self._messages, theirs)
        self._process = start_process(_track, arguments, name="eef tracking", leaf=True)
        theirs.close()

    def report(self, progress: Progress) -> None:
        if (progress.losses or progress.finished) and isinstance(progress.subject, Stage):
            self._messages.put(progress)
        self._warn()

    def close(self) -> None:
        self._messages.put(None)
        deadline = time.monotonic() + SECONDS_TO_END
        while self._process.is_alive() and time.monotonic() < deadline:
            self._warn()
            self._process.join(0.05)
        late = self._process.is_alive()
        self._messages.cancel_join_thread()
        end_process(self._process, 1.0)
        self._warn()
        self._warnings.close()
        if late or self._process.exitcode:
            reason = "was not done in time" if late else "ended early"
            _log.warning("note: tracking %s: see `%s`", reason, self._path / _FOLDER / _OUTPUT)

    def _warn(self) -> None:
        with suppress(EOFError, OSError):
            while self._warnings.poll():
                _log.warning("%s", self._warnings.recv())


# in the process that tracks


def _track(path: Path, messages: Any, warnings: Connection) -> None:
    """Log what a run has done, then whatever arrives, until None arrives.

    One process at a time logs a run. While another one does, nothing is logged here; if it has
    ended before this one, this one logs the rest at its end.
    """
    folder = path / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _redirect_output(folder / _OUTPUT)
    lock = folder / _LOCK
    try:
        with acquire_lock(lock):
            _follow(path, messages, warnings)
    except LockedError:
        warnings.send(
            "note: another process tracks this run; what this one does is logged once that one has "
            "ended"
        )
        while messages.get() is not None:
            pass
        with suppress(LockedError), acquire_lock(lock):
            _follow(path, None, warnings)
    os._exit(0)  # without the exit handlers of trackers, which may wait for a network


def _follow(path: Path, messages: Any, warnings: Connection) -> None:
    follower = Follower(RunDirectory.open(path), warnings.send)
    follower.catch_up()
    while messages is not None and (message := messages.get()) is not None:
        follower.follow(message)
    follower.close()


def _redirect_output(path: Path) -> None:
    """Trackers print banners and links, which are not the output of `eef`."""
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


class Follower:
    """Logs a run to its trackers; `warn` receives one line for each that fails."""

    def __init__(self, run: RunDirectory, warn: Any) -> None:
        self.run, self._warn = run, warn
        self._file = run.path / _FOLDER / _STATE
        self._state: dict[str, Any] = read_object(self._file) if self._file.is_file() else {}
        self._trackers: dict[Tracker, GeneralTracker] = {}
        for name in run.recipe.track:
            with self._dropping(name):
                self._trackers[name] = self._start(name)

    def catch_up(self) -> None:
        """Log every stage that is done and was not logged."""
        for stage in self.run.stages:
            if self.run.is_done(stage):
                self._log_stage(stage)

    def follow(self, progress: Progress) -> None:
        """Log the losses of a report, or the stage that it completes."""
        stage = progress.subject
        assert isinstance(stage, Stage)
        if progress.finished:
            self._log_stage(stage)
        elif progress.losses:
            self._log_losses(stage, progress.done - len(progress.losses), progress.losses)

    def close(self) -> None:
        for name in self.run.recipe.track:
            self._use(name, lambda tracker: tracker.finish())

    def _start(self, name: Tracker) -> GeneralTracker:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)
        folder = self.run.path.resolve() / _FOLDER
        state = self._state.setdefault(name, {"id": secrets.token_hex(8), "points": {}})
        _set_defaults(folder)
        options = _options(name, self.run.recipe, folder, state)
        tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[name](**options)
        tracker.start()
        if name == "mlflow":
            state["run"] = tracker.tracker.info.run_id
        if name == "wandb":  # each method has steps of its own
            for method in self.run.methods:
                tracker.tracker.define_metric(
                    f"{_name(method)}/*", step_metric=f"{_name(method)}/round"
                )
                tracker.tracker.define_metric(
                    f"{_name(method)}/loss", step_metric=f"{_name(method)}/update"
                )
        if self._is_new(name, "recipe", 1):
            tracker.store_init_configuration(_flat(json.loads(self.run.recipe.to_json())))
        return tracker

    def _log_losses(self, stage: Stage, start: int, losses: Sequence[float]) -> None:
        """Log losses of the updates from `start`; those that a tracker has are skipped."""
        before = sum(
            (self.run.summary(Stage(stage.method, round, "train")) or {}).get("updates", 0)
            for round in range(1 if stage.round else 0, stage.round)
        )
        for name in list(self._trackers):
            logged = self._state[name]["points"].get(str(stage), 0)
            if start > logged or start + len(losses) <= logged:
                continue  # the end of the stage fills gaps
            self._is_new(name, str(stage), start + len(losses))
            for update in range(logged, start + len(losses)):
                values = {f"{stage.method}/loss": losses[update - start]}
                self._log(name, values, before + update + 1, "update")

    def _log_stage(self, stage: Stage) -> None:
        """Log the result of a stage that is done, unless a tracker has it."""
        summary = self.run.summary(stage) or {}
        if stage.kind == "train":
            self._log_losses(stage, 0, summary.get("losses", ()))
        values = self._values(stage, summary)
        rows = self._sample(stage) if stage.kind in ("collect", "explore", "evaluate") else []
        for name in list(self._trackers):
            if self._is_new(name, f"{stage} done", 1):
                self._log(name, values, stage.round, "round")
                if rows:
                    title = _name(f"{stage.method}/{stage.kind}/sample")
                    self._use(name, partial(_log_table, name, title, rows, stage.round))

    def _values(self, stage: Stage, summary: Mapping[str, Any]) -> dict[str, float]:
        method = stage.method
        if stage.kind == "evaluate":
            result = self.run.evaluation(method, stage.round)
            assert result is not None, "it is done"
            values = {"win_rate": result.success_rate, "mean_reward": result.mean_reward}
        else:
            group = "explore" if stage.kind == "collect" else stage.kind
            values = {f"{group}/{key}": value for key, value in summary.items()}
        if stage.kind in ("collect", "train"):
            costs = self.run.costs(method).items()
            total = sum((cost for at, cost in costs if at.round <= stage.round), Cost())
            values |= {f"cost/{key}": value for key, value in asdict(total).items()}
        return {
            f"{method}/{key}": value
            for key, value in values.items()
            if isinstance(value, int | float)
        }

    def _sample(self, stage: Stage) -> list[list[Any]]:
        """Some rollouts of a stage as rows of a table."""
        run = self.run
        evaluated = stage.kind == "evaluate"
        store = run.evaluation_store(stage) if evaluated else run.store(stage.method)
        rows = []
        for item in tail_of_store(store):
            if item.round == stage.round:
                actions = " → ".join(step.action or "(none)" for step in item.steps)
                last = item.steps[-1].observation if item.steps else ""
                row = [item.id, item.task, item.success, item.reward, len(item.steps)]
                rows.append([*row, actions[:_TEXT], last[:_TEXT]])
        return rows[:_SAMPLE]

    def _log(self, name: Tracker, values: Mapping[str, float], step: int, unit: str) -> None:
        named = {_name(key): value for key, value in values.items()}
        if name == "wandb":  # its own steps only grow
            method = next(iter(named)).split("/")[0]
            self._use(name, lambda tracker: tracker.log({**named, f"{method}/{unit}": step}))
        else:
            self._use(name, lambda tracker: tracker.log(named, step=step))

    def _is_new(self, name: Tracker, key: str, count: int) -> bool:
        """Whether a tracker has fewer than `count` points of a kind; it is recorded that it has.

        This is recorded before they are logged: after a crash, a point may be missing, but no point
        is logged twice.
        """
        points = self._state[name]["points"]
        if points.get(key, 0) >= count:
            return False
        points[key] = count
        write_json(self._file, self._state)
        return True

    def _use(self, name: Tracker, action: Callable[[GeneralTracker], None]) -> None:
        """Call a function with a tracker, unless the tracker has failed."""
        with self._dropping(name):
            if name in self._trackers:
                action(self._trackers[name])

    @contextmanager
    def _dropping(self, name: Tracker) -> Iterator[None]:
        """Drop a tracker that fails, with a warning."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._trackers.pop(name, None)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            self._warn(
                f"note: the tracker `{name}` fails and gets nothing more from this run: {reason}"
            )


def _set_defaults(folder: Path) -> None:
    """Set the directories in which trackers store local files, unless the user has set them."""
    defaults = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(folder),
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _options(
    name: Tracker, recipe: Recipe, folder: Path, state: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a tracker's class, with which it continues the tracked run of `state`."""
    if name == "tensorboard":
        return {"run_name": "tensorboard", "logging_dir": str(folder)}
    if name == "mlflow":
        own = os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{folder}")
        return {
            "experiment_name": PROJECT,
            "logging_dir": (folder / "mlflow").as_uri() if own else None,
            "run_name": recipe.name,
            "run_id": state.get("run"),
        }
    options: dict[str, Any] = {"run_name": PROJECT}
    if name == "wandb":
        options |= {"name": recipe.name, "id": state["id"], "resume": "allow"}
    elif name == "trackio":
        options |= {"name": f"{recipe.name}-{state['id'][:6]}", "resume": "allow"}
    elif name == "swanlab":
        options |= {"experiment_name": recipe.name, "id": state["id"], "resume": "allow"}
        options |= {"logdir": str(folder / "swanlab")}
    elif name == "aim":
        options |= {"logging_dir": str(folder)}
    return options


def _log_table(
    name: Tracker, title: str, rows: list[list[Any]], step: int, tracker: GeneralTracker
) -> None:
    """Log a table, if the tracker has tables; TensorBoard has text in Markdown."""
    columns = list(_COLUMNS)
    if name in ("wandb", "clearml"):
        tracker.log_table(title, columns=columns, data=rows)
    elif name == "mlflow":
        import mlflow

        data = {column: [row[at] for row in rows] for at, column in enumerate(columns)}
        mlflow.log_table(data, f"{title}-{step}.json")
    elif name == "trackio":
        import pandas
        import trackio

        table = trackio.Table(dataframe=pandas.DataFrame(rows, columns=columns))
        tracker.log({title: table}, step=step)
    elif name == "tensorboard":
        lines = [columns, ["---"] * len(columns), *rows]
        cells = (" | ".join(_cell(each) for each in line) for line in lines)
        tracker.log({title: "\n".join(f"| {line} |" for line in cells)}, step=step)


def _cell(value: Any) -> str:
    """A value in a Markdown table. TensorBoard removes unsafe HTML."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _name(key: str) -> str:
    """A metric's name, in the characters that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", key)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `group.key`; lists and nulls as JSON.

    >>> _flat({"train": {"updates": 4, "epochs": None}, "methods": ["bc"]})
    {'train.updates': 4, 'train.epochs': 'null', 'methods': '["bc"]'}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{key}"] = value if plain else json.dumps(value)
    return flat
