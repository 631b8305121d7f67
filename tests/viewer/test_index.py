"""The index: every rollout of a run, followed while it grows; a damaged line hides no other."""

from __future__ import annotations

import json
import re
import shutil
from itertools import accumulate, pairwise

import pytest

from eef.analysis.results import read_results
from eef.pipeline.run_directory import RunDirectory
from eef.trajectory import Trajectory
from eef.viewer import static_index
from eef.viewer.index.run_index import RunIndex, index_path
from eef.viewer.open_run import OpenRun
from eef.viewer.search import parse_search
from eef.viewer.static_index import index_files
from eef.viewer.tasks import FILTERS, SORTS, count_filters, list_tasks
from tests.fakes.scripted_run import explored_run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


@pytest.fixture
def index(run):
    found = RunIndex(run)
    found.refresh()
    return found


def stored(run):
    """Every rollout of a run as its readers give it."""
    found = {}
    for stage in run.stages:
        if stage.kind == "evaluate":
            found |= {item.id: item for item in run.evaluation_rollouts(stage.method, stage.round)}
    for method in run.methods:
        found |= {item.id: item for item in run.trajectories(method)}
    return found


def test_it_holds_every_rollout_and_reads_it_back(run, index):
    expected = stored(run)
    with index.connect() as reader:
        rows = reader.rows("1 ORDER BY id")
        assert {row.name for row in rows} == set(expected)
        for row in rows:
            item = expected[row.name]
            assert reader.trajectory(row) == item
            assert (row.task, row.success, row.reward) == (item.task, item.success, item.reward)
            assert (row.length, row.t, row.steps) == (item.length, item.first, len(item.steps))
        assert reader.problems() == (0, [])


def test_it_holds_every_example(run, index):
    with index.connect() as reader:
        for stage in run.stages:
            if stage.kind == "select":
                rows = reader.examples("method = ? AND round = ?", stage.method, stage.round)
                selection = run.selection(stage.method, stage.round)
                assert tuple(map(reader.example, rows)) == selection.examples


def test_nothing_is_written_into_the_run(run, index):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    RunIndex(run).refresh()
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert run.path not in index.path.parents


def test_it_follows_a_growing_run_line_by_line(run):
    path = run.store("eef") / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    index = RunIndex(run)

    def count():
        with index.connect() as reader:
            return len(reader.rows("method = 'eef' AND phase = 'explore'"))

    assert index.refresh()
    assert count() == 5
    assert not index.refresh()
    with path.open("ab") as file:
        file.write(lines[5] + lines[6][:20])  # the second line is being written
    assert index.refresh()
    assert count() == 6
    assert not index.refresh(), "a line that is being written changes nothing"
    with path.open("ab") as file:
        file.write(lines[6][20:])
    assert index.refresh()
    assert count() == 7


def test_what_another_viewer_has_indexed_is_a_change(run):
    path = run.store("eef") / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    one, two = RunIndex(run), RunIndex(run)
    assert one.refresh()
    assert two.refresh()
    assert not two.refresh()
    with path.open("ab") as file:
        file.write(lines[5])
    assert two.refresh()
    assert one.refresh()
    assert not one.refresh()
    path.write_bytes(b"".join(lines[1:3]))
    assert one.refresh()
    assert two.refresh()


def test_a_replaced_file_rebuilds_it(run, index):
    path = run.store("eef") / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    assert index.refresh()
    with index.connect() as reader:
        assert len(reader.rows("method = 'eef' AND phase = 'explore'")) == len(lines) - 1
        assert len(reader.rows("1")) == len(stored(run))


def test_a_store_without_its_failed_rollouts_rebuilds_it(run):
    """Its start is that of before, and it has grown since."""
    path = run.store("eef") / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))
    index = RunIndex(run)
    index.refresh()
    path.write_bytes(b"".join([*lines[:4], *lines[6:]]))
    assert index.refresh()
    with index.connect() as reader:
        names = {row.name for row in reader.rows("method = 'eef' AND phase = 'explore'")}
    assert names == {json.loads(line)["id"] for line in [*lines[:4], *lines[6:]]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json\n", "not JSON"),
        (b"[1, 2]\n", "a JSON list"),
        (b'{"version": 99}\n', "has version 99"),
        (b'{"version": 4, "id": "x"}\n', "`steps` is missing"),
        (b'{"version": 4, "id": "x", "steps": 3, "start": null}\n', ""),
        (b"\xff\xfe\n", "not JSON"),
        ("reward", "could not convert"),
        ("status", "unknown status"),
        ("id", "occurs twice"),
    ],
)
def test_a_damaged_line_hides_no_other(run, line, message):
    path = run.store("eef") / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if isinstance(line, str):  # a record with another value in one field
        other = {"id": json.loads(lines[0])["id"]}.get(line, "much")
        line = json.dumps({**json.loads(lines[3]), "id": "x", line: other}).encode() + b"\n"
    path.write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    index = RunIndex(run)
    index.refresh()
    with index.connect() as reader:
        assert len(reader.rows("method = 'eef' AND phase = 'explore'")) == len(lines)
        count, [problem] = reader.problems()
        assert (count, problem.file, problem.line) == (1, "eef/trajectories.jsonl", 4)
        assert message in problem.message


def test_records_of_older_versions_are_read(run):
    path = run.store("expert") / "trajectories.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    old = records[0]
    author = old.pop("author")
    for key in ("version", "replayable", "source", "error_kind"):
        old.pop(key, None)
    old |= {"author": f"{author['role']}:{author['name']}", "version": 1}
    old["usage"].pop("drifted_turns", None)
    old["steps"] = [
        {key: step[key] for key in ("observation", "completion", "action", "reward")}
        for step in old["steps"]
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    index = RunIndex(run)
    index.refresh()
    with index.connect() as reader:
        assert reader.problems()[0] == 0
        row = reader.row(old["id"])
        assert reader.trajectory(row) == Trajectory.from_record(old)


def test_a_damaged_index_is_built_again(run, index):
    index.path.write_bytes(b"not a database" * 100)
    for suffix in ("-wal", "-shm"):
        index.path.with_name(index.path.name + suffix).unlink(missing_ok=True)
    again = RunIndex(run)
    assert again.refresh()
    with again.connect() as reader:
        assert len(reader.rows("1")) == len(stored(run))


def test_each_run_directory_has_its_own_index(tmp_path):
    assert index_path(tmp_path / "a" / "run") != index_path(tmp_path / "b" / "run")


# tasks


def test_filters_select_what_they_state(run, index):
    """Each filter, against a plain count over all trajectories."""
    wins, experts = {}, {}
    for item in stored(run).values():
        wins.setdefault(item.task, []).append(item)
        if item.by_expert:
            experts[item.task] = experts.get(item.task, False) or item.success
    with index.connect() as reader:
        counts = count_filters(reader)
        assert counts[""] == len(wins)
        assert counts["never"] == sum(not any(i.success for i in each) for each in wins.values())
        assert counts["expert-failed"] == sum(not won for won in experts.values())
        for each in FILTERS:
            assert list_tasks(reader, filter=each.name).total == counts[each.name]


def test_recovery_is_what_the_method_measures(tmp_path):
    run = explored_run(tmp_path / "run", {"a": ["lose", "win", "lose", "win", "win", "lose"]})
    index = RunIndex(run)
    index.refresh()
    trajectories = run.trajectories("eef")
    grid = run.methods["eef"].measure(trajectories, trajectories["a"], 1)
    with index.connect() as reader:
        [task] = reader.tasks("task = 'toy/a'")
        assert task.recovery == len(grid.recovery_states()) == 2
        assert [each.task for each in list_tasks(reader, filter="recovery").tasks] == ["toy/a"]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_of_every_order_cover_all_tasks(index, sort):
    with index.connect() as reader:
        total = list_tasks(reader).total
        pages = [list_tasks(reader, sort=sort, page=page, size=7) for page in range(1, 8)]
        names = [task.task for page in pages[: pages[0].pages] for task in page.tasks]
        assert len(names) == len(set(names)) == total
        assert pages[-1].page <= pages[0].pages


def test_search_finds_rollouts_by_any_of_their_texts(run, index):
    item = next(item for item in run.trajectories("eef") if item.by_student)
    word = item.steps[-1].action.split()[0]
    with index.connect() as reader:
        found = list_tasks(reader, search=f"action:{word}", size=1000)
        expected = {
            each.task
            for each in stored(run).values()
            if any(word in step.action.split() for step in each.steps)
        }
        assert {task.task for task in found.tasks} == expected
        first = found.matches[item.task].first
        assert any(word in step.action for step in reader.trajectory(reader.row(first)).steps)
        assert list_tasks(reader, search="nowhere-at-all").total == 0
        assert list_tasks(reader, search="[]").unreadable


@pytest.mark.parametrize(
    "words", ['"', "'); --", "a:b:c", "NEAR(", "* OR", 'action:"', "col : x", "^a"]
)
def test_any_text_can_be_searched_for(index, words):
    with index.connect() as reader:
        list_tasks(reader, search=words)
    parse_search(words)


def test_a_phrase_is_found_only_where_its_words_are_neighbors(run, index):
    item = next(item for item in run.trajectories("eef") if item.by_student)
    words = item.steps[0].observation.split()
    phrase = next(
        f"{a} {b}" for a, b in pairwise(words) if a.isalnum() and b.isalnum() and len(a + b) > 6
    )
    expected = {
        each.task
        for each in stored(run).values()
        if any(
            phrase.lower() in text.lower()
            for step in each.steps
            for text in (step.observation, step.completion, each.final_observation)
        )
    }
    with index.connect() as reader:
        found = list_tasks(reader, search=f'"{phrase}"', size=1000)
        assert {task.task for task in found.tasks} == expected
        reverse = " ".join(reversed(phrase.split()))
        assert list_tasks(reader, search=f'"{reverse}"').total == 0
        assert found.total


def test_results_are_those_of_the_run(run):
    opened = OpenRun("run", run)
    opened.refresh()
    assert opened.results().to_record() == read_results(run.read()).to_record()


def read_file(text):
    name, data = re.fullmatch(r'eefFiles\(("[^"]*"),(.*)\);\n', text, re.S).groups()
    return json.loads(name), json.loads(data)


def test_the_index_of_files_holds_every_word_in_files_of_bounded_size(index, monkeypatch):
    monkeypatch.setattr(static_index, "WORDS_SIZE", 500)
    with index.connect() as reader:
        files = dict(index_files("run", reader, lambda task: task.task, lambda page: page.name))
        data = dict(read_file(text) for text in files.values())
        main = data["index"]
        shards = [data[f"words.{at}"] for at in range(len(main["words"]))]
        assert len(shards) > 3
        assert max(map(len, map(json.dumps, shards))) < 2500  # one word may be longer than 500
        assert [shard[0] for shard in shards] == main["words"] == sorted(main["words"])
        names = [name for rows in (data["rows.0"],) for _, each in rows for name in each]
        assert len(names) == sum(main["counts"]) == len(reader.rows("1"))
        for shard in shards:
            for word, coded in zip(shard[::2], shard[1::2], strict=True):
                numbers = list(accumulate(int(each, 36) for each in coded.split()))
                for kind, bit in main["fields"].items():
                    found = {names[number // 16] for number in numbers if number & bit}
                    query = f'{{{kind}}} : "{word}"'
                    sql = "id IN (SELECT rowid FROM texts WHERE texts MATCH ?)"
                    assert found == {row.name for row in reader.rows(sql, query)}
        tasks = [task.task for task in reader.tasks("1 ORDER BY position")]
        for at, each in enumerate(FILTERS):
            chosen = [
                task for task, mask in zip(tasks, main["masks"], strict=True) if mask >> at & 1
            ]
            assert chosen == [row.task for row in list_tasks(reader, filter=each.name).tasks]
        for sort, order in main["sorts"].items():
            shown = list_tasks(reader, sort=sort).tasks
            assert [tasks[at] for at in order] == [row.task for row in shown]
