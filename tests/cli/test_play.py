"""`eef play`: a person's episodes are recorded, and are an expert of a run."""

from __future__ import annotations

from typer.testing import CliRunner

from eef.cli import make_app
from eef.envs.registry import make_env
from eef.importers.importer import Importer
from eef.importers.verify import TaskIndex
from eef.trajectory import Author


def played(*arguments, lines):
    return CliRunner().invoke(make_app(), ["play", *arguments], input="\n".join(lines) + "\n")


def test_a_person_is_an_expert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = ["# I add.", 'add[{"amount": 1}]', "Hello.", "stop[]"]
    done = played("tests.fakes.counter:SPEC", lines=["", *steps])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith("counter-person.jsonl\n")
    assert "Reach 1." in done.stdout
    assert "reward 1, won" in done.stderr
    done = played("tests.fakes.counter:SPEC", "--tasks", "2", lines=["stop[]", "quit"])
    assert "Reach 2." in done.stdout
    env = make_env("tests.fakes.counter:SPEC", {})
    importer = Importer(TaskIndex(env, {"train": env.tasks("train")}))
    first, second = importer.trajectories([tmp_path / "counter-person.jsonl"])
    assert importer.report.replayed == 2
    assert first.author == Author("expert", "person")
    assert (first.success, second.success) == (True, False)
    assert [step.action for step in first.steps] == [
        'add[{"amount": 1}]',
        "say[Hello.]",
        "stop[]",
    ]
    assert first.steps[0].completion.startswith("Thought: I add.")


def test_nothing_is_written_if_no_episode_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = played("toy", lines=["left"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "error: no episode was played to its end" in done.stderr
