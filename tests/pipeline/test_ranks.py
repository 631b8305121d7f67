"""Ranks of a run: one is killed in the middle, `eef` is killed, and the training continues."""

import pytest

torch = pytest.importorskip("torch")

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from pathlib import Path  # noqa: E402

from tests.fakes.small_run import (  # noqa: E402
    eef,
    lives,
    losses,
    small_recipe,
    start,
    wait_until,
    write_recipe,
)

pytestmark = [pytest.mark.torch, pytest.mark.ranks]

UPDATES = 60


@pytest.fixture
def run_directory(student, tmp_path):
    """A run whose behavior cloning is to be trained next."""
    train = {"updates": UPDATES, "learning_rate": 1e-4}
    recipe = small_recipe(student, methods=["bc", "eef"], train=train)
    path = write_recipe(tmp_path / "small.json", recipe)
    done = eef("collect", path, "--out", tmp_path / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert eef("stage", "select", tmp_path / "run", "--method", "bc", "--quiet").exit_code == 0
    return tmp_path / "run"


def ranks_of(directory: Path) -> dict[int, int]:
    """Process by rank, of a run that is being trained."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [each for each in variables if each.startswith(b"RANK=")]
        if b"eef.pipeline.ranks" in command and str(directory).encode() in command and ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = int(path.name)
    return found


def updates_done(directory: Path) -> int:
    found = sorted((directory / "bc/round0/training").glob("update-*/manifest.json"))
    return int(found[-1].parent.name.removeprefix("update-")) if found else 0


def train(directory: Path, ranks: int):
    return start("stage", "train", directory, "--method", "bc", "--ranks", ranks, "--quiet")


def test_a_killed_rank_ends_the_training_with_one_line_and_it_resumes(run_directory):
    process = train(run_directory, 2)
    wait_until(lambda: updates_done(run_directory) >= 4 or process.poll() is not None)
    processes = ranks_of(run_directory)
    os.kill(processes[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    first, second = errors.strip().splitlines()
    assert first == "error: rank 1 of 2 was killed by SIGKILL"
    assert second.startswith("hint: if it ran out of memory")
    assert not any(map(lives, processes.values()))
    done = updates_done(run_directory)
    assert 4 <= done < UPDATES

    process = train(run_directory, 1)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert json.loads((run_directory / "recipe.json").read_text())["train"]["ranks"] == 1
    assert len(losses(run_directory, ["bc"])[0]) == UPDATES
    assert not (run_directory / "bc/round0/training").exists()


def test_no_rank_outlives_a_killed_eef_and_two_ranks_resume(run_directory):
    process = train(run_directory, 2)
    wait_until(lambda: updates_done(run_directory) >= 4 or process.poll() is not None)
    processes = ranks_of(run_directory)
    assert len(processes) == 2
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(lives, processes.values())))
    assert 4 <= updates_done(run_directory) < UPDATES

    process = train(run_directory, 2)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert len(losses(run_directory, ["bc"])[0]) == UPDATES
    assert not (run_directory / "bc/round0/ranks").exists()


def test_an_error_of_all_ranks_is_one_line(run_directory):
    recipe = run_directory / "recipe.json"
    settings = json.loads(recipe.read_text())
    settings["train"] |= {"learning_rate": 1e30, "max_grad_norm": 1e30}
    recipe.write_text(json.dumps(settings))
    process = train(run_directory, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    first, second = errors.strip().splitlines()
    assert first.startswith("error: training diverged at update ")
    assert second.startswith("hint: lower `train.learning_rate`")


def test_a_launcher_that_does_not_start(run_directory):
    recipe = run_directory / "recipe.json"
    settings = json.loads(recipe.read_text())
    settings["train"]["launcher"] = ["no-such-launcher"]
    recipe.write_text(json.dumps(settings))
    process = train(run_directory, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: the 2 ranks ended without a result: ")
    assert "no-such-launcher" in errors
