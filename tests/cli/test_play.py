"""`eef play`: a person's episodes are recorded, and are an expert of a run."""

from __future__ import annotations

from typer.testing import CliRunner

from eef.cli import make_app
from eef.envs.registry import make_env
from eef.importers.importer import Importer
from eef.importers.verify import TaskIndex
from eef.trajectory import Author
from eef.utils.jsonl import read_jsonl


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


def test_an_episode_is_appended_to_a_line_without_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    played("tests.fakes.counter:SPEC", lines=["stop[]"])
    file = tmp_path / "counter-person.jsonl"
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    done = played("tests.fakes.counter:SPEC", lines=["stop[]"])
    assert done.exit_code == 0, done.stderr
    assert len(read_jsonl(file)) == 2


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_played(tmp_path):
    (tmp_path / "taken").write_text("")
    done = played("toy", "--out", str(tmp_path / "taken" / "x.jsonl"), lines=["left"])
    assert done.exit_code == 2
    assert "taken" in done.stderr
    assert ">" not in done.stdout


def test_an_author_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = played("toy", "--author", "a/b", lines=["left"])
    assert done.exit_code == 2
    assert "`--author` is 'a/b'; expected a name without `/`" in done.stderr
