"""The program from outside: its files, interruptions and resuming, and its error messages."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from eef.cli.progress import LiveDisplay
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.utils.locks import acquire_lock
from eef.utils.progress import Progress
from tests.fakes import ROOT
from tests.fakes.small_run import (
    TIMEOUT,
    eef,
    lines_in,
    losses,
    numbers,
    rollouts,
    save_student,
    small_recipe,
    start,
    stop_when,
    write_recipe,
)
from tests.fakes.small_shop import write_shop

METHODS = ("expert", "bc", "rft4", "eef")


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    done = eef("run", recipe, "--out", directory)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{directory / 'results.json'}\n"
    return directory


def same(directory, other):
    """Check that two runs have the same numbers, rollouts and losses."""
    assert numbers(directory) == numbers(other)
    assert losses(directory, METHODS) == losses(other, METHODS)
    assert [rollouts(directory, name) for name in ("expert", "eef")] == [
        rollouts(other, name) for name in ("expert", "eef")
    ]


def refused(done, message, hint=None):
    """Check that a command was refused: status 2, one line, a hint, and nothing on stdout."""
    assert (done.exit_code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[-1 if hint is None else -2].startswith("error: ")
    assert message in lines[-1 if hint is None else -2]
    assert hint is None or (lines[-1].startswith("hint: ") and hint in lines[-1])
    assert "Traceback" not in done.stderr


# A run


def test_a_run_leaves_results_and_a_page(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["stages"] == {"done": 13, "planned": 13}
    assert set(results["methods"]) == set(METHODS)
    assert results["methods"]["eef"]["rollouts"] == results["methods"]["rft4"]["rollouts"] == 32
    assert "</html>" in (finished / "report.html").read_text()


def test_a_finished_run_is_not_executed_again(finished, recipe):
    before = numbers(finished)
    done = eef("run", recipe, "--out", finished)
    assert done.exit_code == 0
    assert "eef train" not in done.stderr
    assert "EEF" in done.stderr
    assert numbers(finished) == before
    assert eef("run", finished, "--quiet").stderr == ""


def test_single_stages_make_the_same_run(finished, recipe, tmp_path):
    directory = tmp_path / "run"
    assert eef("collect", recipe, "--out", directory, "--quiet").stdout == f"{directory}\n"
    refused(
        eef("stage", "train", directory, "--method", "bc"),
        "`bc train` needs `bc select` first",
        "`eef run ",
    )
    for kind, method in (
        ("evaluate", "expert"),
        ("select", "bc"),
        ("train", "bc"),
        ("evaluate", "bc"),
        ("explore", "eef"),
        ("select", "eef"),
        ("train", "eef"),
        ("evaluate", "eef"),
    ):
        assert eef("stage", kind, directory, "--method", method, "--quiet").exit_code == 0
    assert (
        "already done" in eef("stage", "train", directory, "--method", "eef", "--round", "1").stderr
    )
    written = [str(directory / name) for name in ("results.json", "report.html")]
    assert eef("report", directory).stdout.splitlines() == written
    assert numbers(directory)["methods"]["eef"] == numbers(finished)["methods"]["eef"]
    refused(
        eef("stage", "explore", directory, "--method", "bc"),
        "`bc` has no stage `explore`",
        "rft4",
    )


def test_overrides_take_precedence(student, tmp_path):
    recipe = write_recipe(tmp_path / "small.json", small_recipe(student))
    overrides = (
        "--set",
        "tasks.train=3",
        "--set",
        "expert.names=['scripted/flawless']",
        "--set",
        "name=other",
    )
    assert eef("collect", recipe, "--out", tmp_path / "run", *overrides, "--quiet").exit_code == 0
    assert lines_in(tmp_path / "run/expert/trajectories.jsonl") == 3
    resolved = json.loads((tmp_path / "run/recipe.json").read_text())
    assert (resolved["name"], resolved["expert"]["names"]) == ("other", ["scripted/flawless"])


def test_several_seeds_are_compared(student, tmp_path):
    recipe = write_recipe(tmp_path / "small.json", small_recipe(student, train={"updates": 2}))
    command = (
        "compare",
        recipe,
        "--methods",
        "bc,eef",
        "--seeds",
        2,
        "--out",
        tmp_path / "seeds",
        "--quiet",
    )
    done = eef(*command, "--set", "seed=5")
    assert done.exit_code == 0, done.stderr
    together = json.loads((tmp_path / "seeds/seeds.json").read_text())
    assert together["seeds"] == [5, 6]
    assert [method["name"] for method in together["methods"]] == ["expert", "bc", "eef"]
    assert [(pair["first"], pair["second"]) for pair in together["pairs"]] == [("eef", "bc")]
    assert "EEF – BC" in done.stdout
    resolved = json.loads((tmp_path / "seeds/seed6/recipe.json").read_text())
    assert (resolved["seed"], resolved["train"]["seed"], set(resolved["options"])) == (
        6,
        6,
        {"eef"},
    )


# Interruptions


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_prints_one_line_and_loses_nothing(
    number, status, finished, recipe, tmp_path
):
    directory = tmp_path / "run"
    process = start("run", recipe, "--out", directory)
    ended, stderr = stop_when(
        process, lambda: lines_in(directory / "rft4/trajectories.jsonl") >= 2, number
    )
    assert ended == status
    assert stderr.splitlines()[-1] == f"stopped; `eef run {directory}` continues"
    assert "Traceback" not in stderr
    if number == signal.SIGINT:
        assert eef("run", directory, "--quiet").exit_code == 0
        same(directory, finished)


def test_two_processes_cannot_work_on_one_method(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (directory / "eef/round1/selection.json").unlink()
    with acquire_lock(directory / "eef/stage.lock"):
        refused(
            eef("run", directory),
            f"is being written by process {os.getpid()}",
            "wait until it ends",
        )
    assert eef("run", directory, "--quiet").exit_code == 0


# A full disk


def disk_of(directory: Path, kilobytes: int) -> bool:
    """Mount a small disk at a directory, or resize it; False if that is not permitted."""
    directory.mkdir(exist_ok=True)
    options = f"size={kilobytes}k" if not directory.is_mount() else f"remount,size={kilobytes}k"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_run_resumes_after_a_full_disk(finished, recipe, tmp_path):
    """300 kB fill up during the first checkpoint."""
    disk = tmp_path / "disk"
    try:
        if not disk_of(disk, 300):
            pytest.skip("no right to mount")
        done = eef("run", recipe, "--out", disk / "run", "--set", "train.save_every=2")
        refused(done, "No space left on device", "free some space")
        assert disk_of(disk, 50_000)
        assert eef("run", disk / "run", "--quiet").exit_code == 0
        same(disk / "run", finished)
    finally:
        subprocess.run(["umount", disk], capture_output=True, check=False)


def test_a_file_size_limit_is_reported(recipe, tmp_path):
    """Like a full disk, where none can be mounted: the limit is reached in the first checkpoint."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start("run", recipe, "--out", tmp_path / "run", preexec_fn=limit)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2, stderr
    assert "error: cannot write" in stderr
    assert "hint: " in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


# Library output


def test_a_lora_run_prints_no_library_warnings(student, tmp_path):
    settings = small_recipe(student, train={"updates": 1}, model={"lora": {"rank": 2}})
    recipe = write_recipe(
        tmp_path / "small.json", {**settings, "methods": ["bc"], "options": {}, "budget": {}}
    )
    process = start("run", recipe, "--out", tmp_path / "run")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Warning" not in stderr, "a category such as FutureWarning"
    assert "warn(" not in stderr


# Mistakes


def test_an_unknown_setting_is_refused_with_a_suggestion(recipe, tmp_path):
    message = "unknown setting 'train.updatse'"
    refused(
        eef("run", recipe, "--set", "train.updatse=3", "--out", tmp_path / "run"),
        message,
        "did you mean 'train.updates'?",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (
            ["tasks.train=100"],
            "the recipe asks for 100 tasks of split 'train', which has 40",
            "`tasks.train`",
        ),
        (["expert.names=[]"], "`expert.names`", None),
        (["expert.names=['scripted/strnog']"], "unknown scripted expert 'strnog'", "strong"),
        (["expert.names=['open/gpt']"], "unknown expert 'open/gpt'", "`scripted/<preset>`"),
        (["methods=['bc', 'efe']", "options=null"], "unknown method 'efe'", "'eef'"),
        (["options=3"], "`options` is 3; expected a table", None),
        (["options.eef.grids=all"], "unknown setting 'grids'", "did you mean 'grid'?"),
        (["env.name=tyo"], "unknown environment 'tyo'", "'toy'"),
        (["env.tasks=3"], "environment 'toy': unknown setting 'tasks'", "tasks_per_split"),
        (["train.updates"], "is not `key=value`", "`train.updates=200`"),
        (["train.updates=many"], "`train.updates` is 'many'; expected an integer", None),
        (["model.name=/no/where"], "no such model directory `/no/where`", "hub id"),
        (
            ["rollouts.step_limit=1"],
            "method 'bc' has nothing to train on: no win in 8 tasks",
            "expert",
        ),
    ],
)
def test_a_recipe_that_cannot_be_executed_is_refused(overrides, message, hint, recipe, tmp_path):
    options = [part for override in overrides for part in ("--set", override)]
    refused(eef("run", recipe, "--out", tmp_path / "run", *options), message, hint)


def test_files_and_directories_of_another_kind_are_refused(finished, tmp_path):
    refused(eef("run", tmp_path / "none.toml"), "no such file", "recipes are in `recipes/`")
    refused(eef("run", ROOT / "recipes/demo.tml"), "no such file", "recipes/demo.toml`?")
    refused(eef("show", f"{finished}x"), "no such directory", f"did you mean `{finished}`?")
    refused(eef("report", tmp_path / "none"), "no such directory", "creates a run")
    refused(eef("compare", finished), "is a directory, not a recipe", "`.toml`")
    refused(eef("run", finished, "--set", "seed=1"), "is a run directory", "`--set`")
    (tmp_path / "torn.toml").write_text("name = ")
    refused(eef("run", tmp_path / "torn.toml"), "torn.toml: not valid toml")
    refused(eef("run", tmp_path), "is not a run directory", "`eef run RECIPE --out DIR`")


def test_a_study_with_an_unknown_method_is_not_created(recipe, tmp_path):
    study = tmp_path / "study"
    done = eef("compare", recipe, "--methods", "rft4,efe", "--out", study)
    refused(done, "unknown method 'efe'", "did you mean 'eef'?")
    assert not study.exists()


def test_the_directory_of_a_recipe_without_a_name(tmp_path, recipe, monkeypatch):
    settings = json.loads(recipe.read_text())
    del settings["name"]
    (tmp_path / "mine.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    assert eef("collect", "mine.json", "--quiet").stdout == "runs/mine\n"


def test_a_run_is_not_continued_with_another_recipe(finished, recipe):
    refused(
        eef("run", recipe, "--out", finished, "--set", "seed=3"),
        "they differ in: seed",
        "another directory",
    )


def test_a_mistake_found_before_anything_is_played_can_be_fixed_in_place(recipe, student, tmp_path):
    assert (
        eef("run", recipe, "--out", tmp_path / "run", "--set", "model.name=/no/where").exit_code
        == 2
    )
    assert eef("collect", recipe, "--out", tmp_path / "run", "--quiet").exit_code == 0


def test_a_model_without_a_tokenizer_is_refused_before_anything_is_played(
    student, recipe, tmp_path
):
    bare = tmp_path / "bare"
    shutil.copytree(student, bare, ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    done = eef("run", recipe, "--out", tmp_path / "run", "--set", f"model.name={bare}")
    refused(done, f"model '{bare}': no usable tokenizer", "check the files of that directory")
    assert not (tmp_path / "run/expert").exists()


def test_missing_and_malformed_data_files_are_reported(recipe, tmp_path):
    shop = ("--set", "env.name=webshop", "--out", tmp_path / "run")
    refused(
        eef("run", recipe, *shop, "--set", f"env.data={tmp_path / 'none'}"), "none", "items_shuffle"
    )
    data = write_shop(tmp_path / "shop")
    broken = data / "items_shuffle.json"
    broken.write_text(broken.read_text()[:-20])
    refused(
        eef("run", recipe, *shop, "--set", f"env.data={data}"),
        "items_shuffle.json",
        "fetch the file again",
    )


def test_a_damaged_store_is_reported_with_file_and_line(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    store = directory / "expert/trajectories.jsonl"
    store.write_text("{}\n" + store.read_text())
    refused(eef("show", directory), "expert/trajectories.jsonl`, line 1")


def test_a_bug_ends_in_a_traceback_and_status_1(tmp_path):
    script = (
        "import sys; from eef.cli import main; sys.argv = ['eef', 'settings']\n"
        "import eef.cli.settings; eef.cli.settings.settings_table = None; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


# Limits that are not mistakes


def test_examples_longer_than_the_context_are_skipped_and_counted(recipe, tmp_path):
    """The examples have 357 to 615 tokens."""
    small = save_student(tmp_path / "small", context=408)
    overrides = ("--set", f"model.name={small}", "--set", "rollouts.step_limit=30")
    done = eef("run", recipe, "--out", tmp_path / "run", *overrides)
    assert done.exit_code == 0, done.stderr
    training = json.loads((tmp_path / "run/bc/round0/training.json").read_text())
    assert (training["examples"], len(training["too_long"])) == (2, 6)
    assert "6 examples skipped, longer than the context" in done.stderr
    explored = json.loads((tmp_path / "run/eef/round1/explored.json").read_text())
    assert explored["overflows"] > 0
    assert f"{explored['overflows']} stopped at the end of the context" in done.stderr


def test_a_context_that_fits_no_example_is_refused(recipe, tmp_path):
    tiny = save_student(tmp_path / "tiny", context=120)
    done = eef("run", recipe, "--out", tmp_path / "run", "--set", f"model.name={tiny}")
    refused(done, "all 3 examples are longer than the model's context", "`chat.max_length`")


def test_an_expert_that_never_fails_is_accepted(recipe, tmp_path):
    overrides = ("--set", "expert.names=['scripted/flawless']", "--set", "rollouts.step_limit=20")
    done = eef("run", recipe, "--out", tmp_path / "run", *overrides)
    assert done.exit_code == 0, done.stderr
    assert "the expert never failed, so there are no failures to explore" in done.stderr


def test_an_expert_that_wins_nothing_is_explained(recipe, tmp_path):
    overrides = ("--out", tmp_path / "run", "--set", "rollouts.step_limit=1")
    done = eef("run", recipe, *overrides)
    reason = "all 8 ran into the step limit (1 steps)"
    assert f"expert collect: 8 rollouts, 0 won; {reason}" in done.stderr
    assert (
        f"warning: expert: won none of 8 trajectories, so there is nothing to clone: {reason}"
        in (done.stderr)
    )
    assert "hint: raise `rollouts.step_limit` above 1" in done.stderr
    assert "warning: expert: won none of 8 trajectories" in eef("show", tmp_path / "run").stderr


def test_methods_that_explored_different_numbers_of_rollouts_are_named(recipe, tmp_path):
    done = eef("run", recipe, "--out", tmp_path / "run", "--set", "budget={}")
    assert done.exit_code == 0, done.stderr
    assert (
        "warning: no budget: methods explored different numbers of rollouts (rft4 " in done.stderr
    )
    assert "hint: set `budget.rollouts_per_task`" in done.stderr
    assert "(rft4 " in (tmp_path / "run/report.html").read_text()


# Looking


def test_show_gives_an_overview(finished):
    done = eef("show", finished)
    assert "eef explore (round 1)" in done.stdout
    assert "RFT×4" in done.stdout
    assert "toy/43" in done.stderr


def test_show_and_status_give_the_stages_that_were_started(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "eef/round1")
    (run / "rft4/round1/evaluation.json").unlink()
    status = json.loads((run / "rft4/status.json").read_text())
    (run / "rft4/status.json").write_text(
        json.dumps({**status, "ended": "failed", "error": "no", "hint": "try"})
    )
    status |= {"kind": "explore", "ended": None, "done": 5, "total": 32, "note": "1 won"}
    (run / "eef/status.json").write_text(json.dumps(status))
    lines = [" ".join(line.split()) for line in eef("show", run).stdout.splitlines()]
    assert "eef explore (round 1) interrupted, 5 of 32, 1 won" in lines
    assert "rft4 evaluate (round 1) failed, 6 of 6, 1 won: no" in lines or any(
        line.startswith("rft4 evaluate (round 1) failed, 6 of 6, ") for line in lines
    )
    assert "3 more not done yet" in lines
    shown = eef("status", run).stdout
    assert shown.startswith(f"{run}: interrupted, 8 of 13 stages done\n")
    assert "error in `rft4 evaluate (round 1)`: no\nhint: try\n" in shown
    record = json.loads(eef("status", run, "--json").stdout)
    assert record["error"] == {"message": "no", "hint": "try"}
    assert [each["state"] for each in record["active"]] == ["failed", "interrupted"]


def test_show_gives_a_task_a_trajectory_and_an_example(finished):
    task = eef("show", finished, "toy/40").stdout
    table = task.partition("\n\n")[0]
    ids = [line.split()[0] for line in table.splitlines()[1:]]
    assert table.split()[:3] == ["trajectory", "method", "round"]
    assert "expert:weak/toy/40" in ids
    assert {name.partition("/")[0] for name in ids} >= {"rft4", "eef"}
    assert len(set(ids)) == len(ids)
    expert = next(record for record in rollouts(finished, "expert") if not record["success"])
    path = eef("show", finished, expert["id"]).stdout
    assert "lost" in path
    assert "; in round 1 " in path
    example = json.loads((finished / "eef/round1/examples.jsonl").read_text().splitlines()[0])
    shown = eef("show", finished, example["id"], "--method", "eef").stdout
    assert f"weight {example['weights'][0]:g}, {example['reasons'][0]}" in shown
    assert "evidence" in shown


def test_show_gives_the_mask_of_an_example(finished):
    example = json.loads((finished / "eef/round1/examples.jsonl").read_text().splitlines()[0])
    done = eef("show", finished, example["id"], "--method", "eef", "--mask")
    assert done.stdout.count("⟦") == sum(weight > 0 for weight in example["weights"])
    assert "tokens are trained" in done.stderr


def test_show_gives_the_labels_and_examples_of_a_task(finished):
    example = json.loads((finished / "eef/round1/examples.jsonl").read_text().splitlines()[0])
    task = next(
        record["task"]
        for method in ("expert", "eef")
        for record in rollouts(finished, method)
        if record["id"] == example["trajectory"]
    )
    done = eef("show", finished, task)
    assert example["id"] in done.stdout
    assert f"eef show {finished}" in done.stderr
    assert "--mask" in done.stderr
    refused(
        eef("show", finished, task, "--mask"),
        f"{task!r} is a task; only a training example has a loss mask",
        f"`{example['id']} --method eef --round 1`",
    )
    shown = [
        eef("show", finished, record["task"]).stdout
        for record in rollouts(finished, "expert")
        if not record["success"]
    ]
    assert any(
        re.search(r"labels of .*\n.* eef +1 +(neutral|beneficial|harmful) \d", text)
        for text in shown
    )


def test_methods_with_equal_starts_are_shown_apart(finished):
    """Two methods play the same task from the same state; each row names its method."""
    both = [{record["task"] for record in rollouts(finished, name)} for name in ("rft4", "eef")]
    task = sorted(set.intersection(*both))[0]
    rows = [line.split() for line in eef("show", finished, task).stdout.splitlines()]
    methods = {row[0]: row[1] for row in rows if len(row) > 5 and "/" in row[0]}
    assert {"rft4", "eef"} <= set(methods.values())
    assert all(name.startswith((method, "expert:")) for name, method in methods.items())


def test_show_refuses_what_it_cannot_find(finished):
    refused(
        eef("show", finished, "toy/999"), "no task, trajectory or example 'toy/999'", "overview"
    )
    example = json.loads((finished / "bc/round0/examples.jsonl").read_text().splitlines()[0])
    refused(
        eef("show", finished, example["id"]),
        "examples have the id",
        "`--method bc --round 0`, `--method rft4 --round 1`",
    )
    refused(eef("show", finished, "toy/40", "--round", 2), "has no round 2", "0 to 1")
    refused(eef("show", finished, "toy/40", "--method", "dpo"), "unknown method 'dpo'", "eef")
    refused(
        eef("show", finished, "expert:weak/toy/40", "--mask"),
        "only a training example has a loss mask",
        "",
    )


def test_a_terminal_shows_bars_and_the_results_so_far(finished):
    screen = io.StringIO()
    run = RunDirectory.open(finished)
    stage = Stage("eef", 1, "train")
    with LiveDisplay(run, Console(file=screen, force_terminal=True, width=100)) as display:
        for progress in (
            Progress(stage, 0, 0),
            Progress(stage, 3, 12, "loss 2.500"),
            Progress(stage, 0, 0, finished=True),
        ):
            display.on_progress(progress)
    shown = Text.from_ansi(screen.getvalue()).plain
    assert "eef train (round 1): 12 updates on" in shown
    assert "win rate %   start   round 1" in shown


# Tools


def test_env_check_checks_the_protocol():
    done = eef("env", "check", "toy", "--set", "tasks_per_split=5")
    assert done.exit_code == 0
    assert "task ids are unique" in done.stdout
    assert " checks passed: " in done.stderr
    assert "warning" not in done.stderr, "the scripted expert wins"
    assert eef("env", "check", "toy", "--action", "left", "--episodes", 0).exit_code == 0
    refused(eef("env", "check", "toy", "--split", "dev"), "unknown split 'dev'", "train")


def test_env_check_names_the_action_that_raises(monkeypatch):
    def fall(env, action):
        raise RuntimeError("the floor is missing")

    monkeypatch.setattr("eef.envs.toy.ToyEnv.step", fall)
    refused(
        eef("env", "check", "toy", "--action", "jump"),
        "`step` raised an exception for the action 'jump' (step 0 of toy/40): "
        "RuntimeError: the floor is missing",
        "answer every action",
    )


def test_settings_lists_every_setting():
    shown = eef("settings").stdout
    for key in ("train.updates", "options.eef.M", "env.products_per_page"):
        assert key in shown


def test_a_base_student_is_built(tmp_path):
    small = (
        "shops=1",
        "tasks=2",
        "updates=1",
        "drills=20",
        "drill_updates=1",
        "width=32",
        "layers=1",
    )
    overrides = [part for setting in small for part in ("--set", setting)]
    done = eef("model", "build", "--out", tmp_path / "base", *overrides)
    assert done.stdout == f"{tmp_path / 'base'}\n"
    assert (tmp_path / "base/manifest.json").is_file()
    refused(
        eef("model", "build", "--out", tmp_path / "other", "--set", "shop=1"),
        "unknown setting 'shop'",
        "'shops'",
    )
