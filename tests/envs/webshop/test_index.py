"""The on-disk index: equal to the shop in memory, resumable, never outdated."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.envs.webshop import index, official
from eef.envs.webshop.columns import LAYOUT
from eef.envs.webshop.index import index_directory, open_index
from eef.envs.webshop.official import JsonStream, OfficialFiles
from eef.envs.webshop.settings import SyntheticSettings, WebShopSettings
from eef.envs.webshop.shop import prepare
from eef.envs.webshop.synthetic import generate
from eef.errors import ConfigError, DataError
from eef.utils.cache import cache_directory
from tests.fakes.small_run import eef
from tests.fakes.small_shop import make_shop, write_shop


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    records = generate(SyntheticSettings(products=120))
    directory = tmp_path_factory.mktemp("data")
    return write_shop(directory, items=records.items, notes=records.attributes, human=records.human)


@pytest.fixture
def files(data, tmp_path):
    """A copy of the files that a test may change."""
    return OfficialFiles.find(shutil.copytree(data, tmp_path / "data"))


def contents(directory):
    """The bytes of every column."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "index.json"
    }


@pytest.mark.parametrize("goals", ["human", "synthetic"])
def test_a_shop_on_disk_equals_the_shop_in_memory(data, tmp_path, goals):
    disk, memory = (
        make_shop(data, goals=goals, index=index) for index in (str(tmp_path), "memory")
    )
    assert disk.fingerprint() == memory.fingerprint()
    assert list(disk.shop.goals) == list(memory.shop.goals)
    assert list(disk.shop.catalog) == list(memory.shop.catalog)
    for goal in list(memory.shop.goals)[:20]:
        assert disk.search(goal.instruction) == memory.search(goal.instruction)
        assert disk.shop.catalog.get(goal.asin) == memory.shop.catalog.get(goal.asin)
    for env in (disk, memory):
        env.reset(0)
    assert disk.step("search[<c> garden]") == memory.step("search[<c> garden]")


def test_the_index_is_built_once(files, tmp_path, monkeypatch):
    built = open_index(files, tmp_path / "cache")
    assert built.directory.parent == tmp_path / "cache" / "webshop"
    assert sorted(path.name for path in built.directory.parent.iterdir()) == [
        built.directory.name, f"{built.directory.name}.lock",
    ]  # fmt: skip
    monkeypatch.setattr(index, "_build", None)
    assert open_index(files, tmp_path / "cache").digest == built.digest
    settings = WebShopSettings(data=str(files.items), index=str(tmp_path / "cache"))
    prepare(settings, lambda progress: None)


@pytest.mark.parametrize("which", ["items", "attributes", "human"])
def test_other_files_make_another_index(files, tmp_path, which):
    before = open_index(files, tmp_path)
    path = getattr(files, which)
    path.write_text(path.read_text() + " ")
    after = open_index(files, tmp_path)
    assert (after.directory, after.digest != before.digest) == (before.directory, True)


def test_an_index_with_a_missing_part_is_rebuilt(files, tmp_path):
    built = open_index(files, tmp_path)
    whole = contents(built.directory)
    os.truncate(built.directory / "documents.i4", 8)
    (built.directory / "ranks.i4").unlink()
    assert contents(open_index(files, tmp_path).directory) == whole


def test_checksums_detect_damage_of_equal_size(files, tmp_path):
    built = open_index(files, tmp_path)
    built.verify()
    path = built.directory / "records.u1"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="checksum of column `records` does not match") as caught:
        open_index(files, tmp_path).verify()
    assert "--rebuild" in caught.value.hint
    open_index(files, tmp_path, rebuild=True).verify()


class Stopped(BaseException):
    """Stands in for the death of the process."""


@pytest.mark.parametrize("stop", [1, 7, 60, 119, "terms", "goal_order", "digest"])
def test_an_interrupted_build_resumes_with_the_same_result(files, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(index, "CHECKPOINT", 10)
    monkeypatch.setattr(official, "CHUNK", 1000)
    whole = contents(open_index(files, tmp_path / "whole").directory)
    appended, written = index.FileColumns.append, []

    def append(self, name, values):
        written.append(name)
        if name == stop or written.count("records") == stop:
            raise Stopped
        appended(self, name, values)

    with monkeypatch.context() as patch:
        patch.setattr(index.FileColumns, "append", append)
        if stop == "digest":
            patch.setattr(
                OfficialFiles,
                "digest",
                lambda self, on_progress: exec("raise Stopped", {"Stopped": Stopped}),
            )
        with pytest.raises(Stopped):
            open_index(files, tmp_path / "cache")
    seen = []
    again = open_index(
        files, tmp_path / "cache", on_progress=lambda each: seen.append((each.subject, each.done))
    )
    assert contents(again.directory) == whole
    again.verify()
    if stop in (60, 119, "terms"):
        assert (
            min(done for what, done in seen if what == "reading products") > 10_000
        )  # did not restart


def build_and_be_killed(data, where, part):
    """Build an index; kill this process, as by `kill -9`, once `part` has been reported twice."""
    index.CHECKPOINT, official.CHUNK, reported = 10, 1000, []

    def on_progress(progress):
        reported.append(progress.subject)
        if reported.count(part) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    open_index(OfficialFiles.find(Path(data)), Path(where), on_progress=on_progress)


@pytest.mark.parametrize("part", ["reading products", "computing checksums"])
def test_a_killed_build_resumes_with_the_same_result(files, tmp_path, part):
    whole = contents(open_index(files, tmp_path / "whole").directory)
    worker = multiprocessing.get_context("spawn").Process(
        target=build_and_be_killed, args=(str(files.items), str(tmp_path / "cache"), part)
    )
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not index_directory(files, tmp_path / "cache").exists()
    again = open_index(files, tmp_path / "cache")
    again.verify()
    assert contents(again.directory) == whole


def test_a_build_of_other_files_is_not_resumed(files, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "CHECKPOINT", 10)
    with monkeypatch.context() as patch:
        patch.setattr(
            index.CatalogWriter, "finish", lambda *_: exec("raise Stopped", {"Stopped": Stopped})
        )
        with pytest.raises(Stopped):
            open_index(files, tmp_path / "cache")
    items = json.loads(files.items.read_text())
    files.items.write_text(json.dumps(items[:50]))
    found = open_index(files, tmp_path / "cache")
    assert len(found.columns.read("asins")) == 50


def build(data, where, results):
    env = make_shop(data, goals="human", index=where)
    results.put((len(env.shop.catalog), env.fingerprint()["sha256"]))


def test_two_processes_build_one_index(files, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=build, args=(str(files.items), str(tmp_path / "cache"), results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers[0] == answers[1] == (120, OfficialFiles.find(files.items.parent).digest())


def test_index_directory(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    assert index_directory(files).parent == tmp_path / "mine" / "webshop"
    monkeypatch.delenv("EEF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "eef"


def test_large_files_are_indexed_on_disk_by_default(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    make_shop(files.items)
    assert not (tmp_path / "webshop").exists()
    monkeypatch.setattr(index, "LARGE_BYTES", 1000)
    make_shop(files.items)
    assert index_directory(files).is_dir()


def test_too_little_disk_space_is_reported_first(files, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SIZE_RATIO", 1e12)
    with pytest.raises(DataError, match=r"GB in .* GB free") as caught:
        open_index(files, tmp_path)
    assert "EEF_CACHE" in caught.value.hint


def test_a_synthetic_shop_has_no_index():
    with pytest.raises(ConfigError, match="`index` has no effect"):
        make_shop(index="memory")


def test_every_column_is_written(data, tmp_path):
    built = open_index(OfficialFiles.find(data), tmp_path)
    there = {path.name.split(".")[0] for path in built.directory.iterdir()} - {"index"}
    assert there == set(LAYOUT) - set(index.TEMPORARY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def stream(path, opening, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "CHUNK", 7)
        found = JsonStream(path, opening, **options)
        return [(value, found.offset) for value in found]


@given(value=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_streaming_a_list_equals_parsing_it(tmp_path_factory, value, indent, ascii):
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(
        json.dumps(value, indent=indent, ensure_ascii=ascii),
        encoding="utf-8",
        errors="surrogatepass",
    )
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        with pytest.raises(DataError, match="not UTF-8"):
            stream(path, "[")
        return
    found = stream(path, "[")
    assert [member for (_, member), _ in found] == value
    for at, (_, offset) in enumerate(found):
        assert [member for (_, member), _ in stream(path, "[", start=offset)] == value[at + 1 :]


@given(value=st.dictionaries(st.text('ab\\"é', max_size=3), JSON, max_size=4))
def test_streaming_an_object_equals_parsing_it(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "object.json"
    path.write_text(json.dumps(value))
    assert dict(member for member, _ in stream(path, "{")) == value
    assert {key: json.loads(text) for (key, text), _ in stream(path, "{", raw=True)} == value


@given(st.data())
def test_a_truncated_file_is_refused(tmp_path_factory, data):
    whole = json.dumps(
        [{"asin": "B01", "é": [1, 2.5, None]}, {"x": "y\\"}], ensure_ascii=False
    ).encode()
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(
        DataError, match=r"cut.json` is not valid JSON: .* \(member \d, near byte \d+\)"
    ):
        stream(path, "[")


@pytest.mark.parametrize(
    "text",
    [
        "[1 2]",
        "[1,]",
        "[,1]",
        "[1]]",
        "[1] x",
        "[nul]",
        "x",
        "",
        "[" * 100_000,
        "[1" + "0" * 5000 + "]",
    ],
)
def test_malformed_lists(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"odd.json"):
        list(JsonStream(path, "["))


@pytest.mark.parametrize("text", ['{"a" 1}', '{"a": 1,}', "{1: 2}", '{"a"', '{"a": 1 "b": 2}'])
def test_malformed_objects(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not valid JSON"):
        list(JsonStream(path, "{"))


def test_an_endless_member_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(official, "MAX_MEMBER", 1000)
    monkeypatch.setattr(official, "CHUNK", 100)
    path = tmp_path / "long.json"
    path.write_text('["' + "a" * 10_000)
    found = JsonStream(path, "[")
    with pytest.raises(DataError, match="member 0"):
        list(found)
    assert found.offset <= 3000


# --- the command and a run ------------------------------------------------------------------------


def prepare_index(data, *options):
    return eef("env", "prepare", "webshop", "--set", f"data={data}", *options)


def test_the_command_builds_an_index_and_prints_its_directory(files, tmp_path):
    first = prepare_index(files.items.parent, "--out", tmp_path / "cache")
    found = index_directory(files, tmp_path / "cache")
    assert (first.exit_code, first.stdout.strip()) == (0, str(found))
    assert "reading products" in first.stderr
    assert "computing checksums" in first.stderr
    manifest = found / "index.json"
    built = manifest.stat().st_ino
    again = prepare_index(files.items, "--out", tmp_path / "cache", "--verify")
    assert again.exit_code == 0
    assert "reading products" not in again.stderr
    assert manifest.stat().st_ino == built
    assert (
        "reading products"
        in prepare_index(files.items, "--out", tmp_path / "cache", "--rebuild").stderr
    )


def test_the_command_warns_if_runs_will_not_use_the_index(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path / "own"))
    result = prepare_index(files.items.parent)
    assert result.exit_code == 0
    assert "hint: a catalog this small is read into memory" in result.stderr
    missing = prepare_index(tmp_path / "nothing")
    assert missing.exit_code == 2
    assert "hint: give a directory with WebShop's" in missing.stderr


def test_the_command_detects_damage(files, tmp_path):
    column = open_index(files, tmp_path).directory / f"prices.{LAYOUT['prices']}"
    column.write_bytes(bytes(column.stat().st_size))
    result = prepare_index(files.items, "--out", tmp_path, "--verify")
    assert result.exit_code == 2
    assert "checksum of column `prices` does not match" in result.stderr
    assert prepare_index(files.items, "--out", tmp_path, "--rebuild", "--verify").exit_code == 0


def test_a_run_builds_its_index_with_a_progress_bar(files, tmp_path):
    options = {
        "name": "webshop",
        "data": str(files.items),
        "index": str(tmp_path / "cache"),
        "goals": "human",
        "splits": {"train": [0, 2], "test": [2, 4]},
    }
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps({"name": "shop", "env": options, "expert": {"names": ["scripted/strong"]}})
    )
    run = eef("collect", recipe, "--out", tmp_path / "run")
    assert run.exit_code == 0
    assert "reading products" in run.stderr
    again = eef("collect", tmp_path / "run")
    assert again.exit_code == 0
    assert "reading products" not in again.stderr
