"""Store, ledger and JSON files: nothing that was written is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import DataError, StoreError
from eef.pipeline.ledger import Cost, Ledger, usage_of
from eef.pipeline.stages import Stage
from eef.rollouts.store import STORE_FILE, Store, read_trajectories
from eef.trajectory import StateRef, Step, Trajectory, Usage
from eef.utils.jsonl import read_jsonl
from tests.fakes import ROOT
from tests.fakes.notes import note
from tests.fakes.records import recorded
from tests.fakes.strategies import families, trajectories

TORN_FILE = f"{STORE_FILE}.torn"


def stored(directory: Path, *names: str) -> Path:
    with Store.open(directory) as store:
        for name in names:
            store.append(recorded(name, "a", "b"))
    return directory / STORE_FILE


@given(families(), st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_reopened_store_holds_everything_appended(family, reopen):
    with tempfile.TemporaryDirectory() as name:
        store = Store.open(Path(name))
        for trajectory, again in zip(family, reopen, strict=False):
            store.append(trajectory)
            if again:
                store.close()
                store = Store.open(Path(name))
                assert not (Path(name) / TORN_FILE).exists()
        store.close()
        held = read_trajectories(Path(name))
        assert list(held) == family
        for each in family:
            assert held.path(each.id) == store.trajectories.path(each.id)


@given(families(), st.data())
def test_a_truncated_file_loses_at_most_one_line(family, data):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Store.open(directory) as store:
            for trajectory in family:
                store.append(trajectory)
        path = directory / STORE_FILE
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        # a line without its newline is complete
        whole = content[:cut].count(b"\n") + (content[cut : cut + 1] == b"\n")
        assert list(read_trajectories(directory)) == family[:whole]
        with Store.open(directory) as store:
            assert list(store.trajectories) == family[:whole]
            for trajectory in family[whole:]:
                store.append(trajectory)
        assert path.read_bytes() == content


def test_a_torn_last_line_is_moved_aside(tmp_path):
    path = stored(tmp_path, "a", "b")
    with path.open("ab") as file:
        file.write(b'{"id": "c", "ta')
    with Store.open(tmp_path) as store:
        store.append(recorded("c", "a"))
    assert [each.id for each in read_trajectories(tmp_path)] == ["a", "b", "c"]
    assert (tmp_path / TORN_FILE).read_bytes() == b'{"id": "c", "ta\n'


def test_quarantined_trajectories_can_be_stored_again(tmp_path):
    stored(tmp_path, "a", "b", "c")
    with Store.open(tmp_path) as store:
        aside = store.quarantine({"b", "unknown"})
        assert [each.id for each in store.trajectories] == ["a", "c"]
        store.append(recorded("b", "x"))
    assert [each.id for each in read_trajectories(tmp_path)] == ["a", "c", "b"]
    assert [record["id"] for record in read_jsonl(aside)] == ["b"]


def test_a_last_line_without_a_newline_is_complete(tmp_path):
    path = stored(tmp_path, "a", "b")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with Store.open(tmp_path) as store:
        store.append(recorded("c", "x"))
    assert path.read_bytes().startswith(content)
    assert not (tmp_path / TORN_FILE).exists()
    assert [each.id for each in read_trajectories(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{oops}", "not JSON"),
        (b"[1]", "a JSON list; expected an object"),
        (b"\xff\xfe", "not JSON"),
        (b'{"version": 1, "id": "x"}', "malformed trajectory record 'x': `task`"),
        (b'{"version": 99}', "has version 99"),
        (b'{"version": true}', "has version True"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path, line, what):
    path = stored(tmp_path, "a", "b")
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, second, b""]))
    with pytest.raises(DataError, match="line 2") as caught:
        Store.open(tmp_path)
    assert str(path) in caught.value.message
    assert what in caught.value.message
    with pytest.raises(DataError):  # not a StoreError: the lock was released
        Store.open(tmp_path)


def test_a_repeated_line_is_named(tmp_path):
    path = stored(tmp_path, "a")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match=r"line 2: trajectory id 'a' occurs twice"):
        Store.open(tmp_path)


def test_a_version_0_record_is_migrated(tmp_path):
    assert sorted(Trajectory.MIGRATIONS) == list(range(Trajectory.VERSION))
    step = {"observation": "o", "completion": "Action: a", "action": "a"}
    old = {
        "id": "old",
        "task": "toy/1",
        "author": "expert:e",
        "steps": [step],
        "final_observation": "end",
        "status": "terminated",
        "reward": 1.0,
        "success": True,
    }
    (tmp_path / STORE_FILE).write_text(json.dumps(old) + "\n")
    with Store.open(tmp_path) as store:
        store.append(recorded("new", "x", start=StateRef("old", 1)))
    old_again, new = read_trajectories(tmp_path)
    assert old_again.steps == (Step(observation="o", completion="Action: a", action="a"),)
    assert (old_again.start, old_again.round, old_again.usage) == (None, 0, Usage())
    assert old_again.episode_seed is None
    assert new.to_record()["version"] == Trajectory.VERSION


def test_a_refused_trajectory_is_not_written(tmp_path):
    path = stored(tmp_path, "a")
    before = path.read_bytes()
    with Store.open(tmp_path) as store:
        with pytest.raises(StoreError, match="twice"):
            store.append(recorded("a", "x"))
        with pytest.raises(StoreError, match="unknown"):
            store.append(recorded("b", "x", start=StateRef("nobody", 0)))
    assert path.read_bytes() == before


def test_a_full_disk_loses_nothing_stored(tmp_path):
    path = stored(tmp_path, "a")
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Store.open(tmp_path) as store:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (size + 20, hard)
        )  # room for the first 20 bytes of a line
        try:
            with pytest.raises(StoreError, match="cannot write") as caught:
                store.append(recorded("b", "x"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old_handler)
        assert "free some space" in caught.value.hint
        assert path.stat().st_size == size
        assert "b" not in store.trajectories
        store.append(recorded("b", "x"))
    assert [each.id for each in read_trajectories(tmp_path)] == ["a", "b"]


def test_an_interrupted_append_leaves_no_half_line(tmp_path, monkeypatch):
    path = stored(tmp_path, "a")
    before = path.read_bytes()

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with Store.open(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.append(recorded("b", "x"))
        assert len(store.trajectories) == 1
    assert path.read_bytes() == before


def test_a_second_writer_learns_who_writes(tmp_path):
    with Store.open(tmp_path):
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()} ") as caught:
            Store.open(tmp_path)
        assert "another directory" in caught.value.hint
        assert list(read_trajectories(tmp_path)) == []
    Store.open(tmp_path).close()


def test_a_killed_writer_leaves_no_lock_and_everything_it_stored(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from eef.rollouts.store import Store\n"
        "from tests.fakes.records import recorded\n"
        "store = Store.open(Path(sys.argv[1])); store.append(recorded('a', 'x'))\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -9
    with Store.open(tmp_path) as store:
        assert [each.id for each in store.trajectories] == ["a"]


def test_a_store_that_cannot_be_created_or_read_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Store.open(tmp_path / "file" / "run")
    assert len(read_trajectories(tmp_path / "nowhere")) == 0


@given(st.lists(trajectories(), max_size=5))
def test_usage_is_summed(played):
    cost = usage_of(played)
    assert cost.rollouts == len(played)
    assert cost.env_steps == sum(len(each.steps) for each in played)
    assert cost.prompt_tokens == sum(each.usage.prompt_tokens for each in played)
    assert cost.seconds == pytest.approx(sum(each.usage.seconds for each in played))


def test_the_ledger_counts_a_stage_once(tmp_path):
    ledger = Ledger.open(tmp_path)
    ledger.record(Stage("eef", 1, "explore"), Cost(rollouts=3, seconds=1.5))
    ledger.record(Stage("eef", 1, "explore"), Cost(rollouts=6, seconds=3.0))
    ledger.record(Stage("eef", 1, "train"), Cost(updates=10, trained_tokens=70))
    with ledger.path.open("ab") as file:
        file.write(b'{"method": "ee')
    again = Ledger.open(tmp_path)
    assert again.entries == ledger.entries
    assert next(iter(again.entries)) == Stage("eef", 1, "explore")
    total = sum(again.entries.values(), Cost())
    assert total == Cost(rollouts=6, updates=10, trained_tokens=70, seconds=3.0)
    before = again.path.read_bytes()
    again.record(Stage("eef", 1, "explore"), Cost(rollouts=6, seconds=3.0))
    assert again.path.read_bytes() == before


def test_a_malformed_ledger_entry_is_named(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"method": "eef", "round": 1}\n')
    with pytest.raises(
        DataError, match=r"ledger.jsonl`, line 1: malformed ledger entry \('stage'\)"
    ):
        Ledger.open(tmp_path)


def test_a_store_that_was_taken_over_gets_no_further_note(tmp_path, monkeypatch):
    """Another process has gone on; a second note of the same id could never be read again."""

    def taken():
        raise StoreError("another process has taken over")

    with Store.open(tmp_path) as store:
        monkeypatch.setattr(store._lock, "confirm", taken)
        with pytest.raises(StoreError, match="taken over"):
            store.append_note(note("judge", "a", "1", task="toy/1"))
        monkeypatch.undo()
    assert len(read_trajectories(tmp_path).notes) == 0
