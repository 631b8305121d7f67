"""A whole run in seconds (toy environment, random one-layer student), and calls of the program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from eef.cli import make_app
from eef.config import parse_settings
from eef.pipeline.recipe import Recipe
from tests.fakes import ROOT

TIMEOUT = 300.0  # seconds; a loaded machine takes minutes for what takes seconds


def save_student(directory: Path, *, context: int = 4096) -> Path:
    """A random student with the tokenizer of the shipped one, in a directory for a recipe."""
    import torch

    from eef.models.checkpoint import save_checkpoint
    from eef.students.builder import build_model
    from eef.students.tokenizer import build_tokenizer
    from eef.students.webshop import shop_vocabulary

    torch.manual_seed(0)
    tokenizer = build_tokenizer(shop_vocabulary())
    model = build_model(tokenizer, width=32, layers=1)
    model.config.max_position_embeddings = context
    save_checkpoint(model, tokenizer, directory, base="none")
    return directory


def small_recipe(student: Path, **changes: Any) -> dict[str, Any]:
    """The settings of the run; `changes` replace groups, or single values of groups."""
    recipe: dict[str, Any] = {
        "name": "small",
        "rounds": 1,
        "methods": ["bc", "rft4", "eef"],
        "options": {"eef": {"M": 3}},
        "budget": {"rollouts_per_task": 4},
        "env": {"name": "toy"},
        "expert": {"names": ["scripted/weak"]},
        "tasks": {"train": 8, "test": 6},
        "model": {"name": str(student)},
        "sampling": {"max_tokens": 8},
        "rollouts": {"batch_size": 4, "step_limit": 7},
        "train": {
            "updates": 12,
            "batch_size": 4,
            "learning_rate": 0.02,
            "save_every": 2,
            "threads": 1,
        },
    }
    for key, value in changes.items():
        recipe[key] = (
            {**recipe[key], **value} if isinstance(value, dict) and key in recipe else value
        )
    return recipe


def as_recipe(settings: dict[str, Any]) -> Recipe:
    return parse_settings(Recipe, settings, source="small")


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(json.dumps(settings))
    return path


# the program


def eef(*arguments: object) -> Result:
    """The program in this process, so that torch is loaded once. Bugs are raised."""
    return CliRunner().invoke(
        make_app(), [str(argument) for argument in arguments], catch_exceptions=False
    )


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The program in a process and session of its own.

    A shell that runs the tests in the background makes them, and the processes they start, ignore
    Ctrl-C; this is undone here.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "eef", *(str(argument) for argument in arguments)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def stop_when(
    process: subprocess.Popen[str], happened: Callable[[], bool], number: signal.Signals
) -> tuple[int, str]:
    """Send a signal as soon as something has happened; (exit status, stderr)."""
    wait_until(lambda: happened() or process.poll() is not None)
    assert process.poll() is None, (
        f"it ended before it could be stopped: {process.communicate()[1]}"
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, errors


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


# the files of a run


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def numbers(directory: Path) -> Any:
    """`results.json` without times."""
    return _timeless(json.loads((directory / "results.json").read_text()))


def rollouts(directory: Path, method: str) -> list[Any]:
    """Every stored rollout of a method without times, by id."""
    lines = (directory / method / "trajectories.jsonl").read_text().splitlines()
    return sorted((_timeless(json.loads(line)) for line in lines), key=lambda record: record["id"])


def losses(directory: Path, methods: Sequence[str]) -> list[Any]:
    paths = (
        path
        for method in methods
        for path in sorted(directory.glob(f"{method}/round*/training.json"))
    )
    return [json.loads(path.read_text())["losses"] for path in paths]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(item) for key, item in value.items() if key not in ("seconds", "minutes")
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value
