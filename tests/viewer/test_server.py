"""The server: every page of a run, nothing without the key, hostile texts as text."""

from __future__ import annotations

import json
import re
import shutil
import socket
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from eef.analysis.results import read_results
from eef.errors import ConfigError
from eef.report.run_page import write_page
from eef.utils.sockets import listen
from eef.viewer.library import Library, open_library
from eef.viewer.open_run import OpenRun
from eef.viewer.server import CONTENT_POLICY, make_app
from eef.viewer.views.run import rollouts_to_play
from tests.fakes import ROOT
from tests.fakes.hostile import HOSTILE, hostile_run
from tests.fakes.html import read_html
from tests.fakes.scripted_run import explored_run, finish, start_run
from tests.fakes.small_run import eef

KEY = "secret"


@pytest.fixture(scope="module")
def opened(finished):
    run = OpenRun.open("run", finished)
    run.refresh()
    yield run
    run.close()


@pytest.fixture(scope="module")
def client(opened):
    return TestClient(make_app(Library((opened,)), KEY), raise_server_exceptions=True)


def crawl(client, start, limit=200):
    """The pages that links lead to from one address, by address."""
    seen, queue = {}, [start]
    while queue and len(seen) < limit:
        address = queue.pop(0)
        if address in seen:
            continue
        response = client.get(address)
        seen[address] = response
        if response.status_code == 200 and "text/html" in response.headers["content-type"]:
            for link in read_html(response.text).links:
                target = link.partition("#")[0]
                if target.startswith(f"/{KEY}/") and target not in seen:
                    queue.append(target)
    return seen


@pytest.fixture(scope="module")
def pages(client):
    return crawl(client, f"/{KEY}/run/")


def test_every_page_that_is_linked_exists_and_is_well_formed(pages):
    assert {response.status_code for response in pages.values()} == {200}
    views = {re.sub(r"[?/].*", "", address.removeprefix(f"/{KEY}/run/")) for address in pages}
    assert {"", "tasks", "task", "trajectory", "example", "compare", "behaviors"} <= views
    for response in pages.values():
        assert response.headers["content-security-policy"] == CONTENT_POLICY
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"


def test_pages_load_only_what_the_server_has(pages):
    for address, response in pages.items():
        if "text/html" in response.headers["content-type"]:
            assert not re.findall(r'(?:src|href|action)="(?!/secret/|#)[^"]*"', response.text), (
                address
            )


@pytest.mark.parametrize("address", ["/", "/run/", "/wrong/run/", "/assets/page.css", "/secret"])
def test_without_the_key_there_is_nothing(client, address):
    response = client.get(address, follow_redirects=False)
    assert (response.status_code, response.text) == (404, "not found")


@pytest.mark.parametrize(
    "address",
    [
        "none/",
        "run/task/none",
        "run/trajectory/none",
        "run/example/none",
        "run/compare",
        "run/compare?a=x&b=y",
        "assets/../server.py",
        "assets/nothing.css",
    ],
)
def test_what_does_not_exist_is_a_page_with_a_hint(client, address):
    response = client.get(f"/{KEY}/{address}")
    assert response.status_code == 404
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "query",
    ["page=99", "page=x", "sort=none", "filter=none", "q=%22", "page=-1", "q=red_shoe%C2%B2"],
)
def test_any_query_of_the_table_is_a_page(client, query):
    assert client.get(f"/{KEY}/run/tasks?{query}").status_code == 200


def test_hostile_texts_are_shown_as_text(finished, tmp_path):
    task, names = hostile_run(finished, tmp_path / "run")
    opened = OpenRun.open("run", tmp_path / "run")
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), KEY))
    for name, text in zip(names, HOSTILE, strict=True):
        response = client.get(f"/{KEY}/run/trajectory/{quote(name)}")
        assert response.status_code == 200
        page = read_html(response.text)
        assert not page.names & {"img", "b", "iframe", "style"}
        assert not any(name.startswith("on") for name in page.attributes)
        assert not any("example.invalid" in link or "javascript" in link for link in page.links)
        assert response.text.count("<script") == 1
        if "\u202e" in text:
            assert "\u202e" not in response.text
            assert "U+202E" in response.text
        if "{{" in text:
            assert "{{ 7 * 7 }}" in response.text
        if "\x1b" in text:
            assert "\x1b" not in response.text
    assert client.get(f"/{KEY}/run/task/{task}").status_code == 200


def test_a_damaged_record_is_named_and_hides_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "eef" / "trajectories.jsonl"
    lines = file.read_text().splitlines()
    record = json.loads(lines[0])
    record["color"] = "red"  # found when it is shown
    file.write_text("\n".join([json.dumps(record), "{damaged", *lines[1:]]) + "\n")
    evaluation = tmp_path / "run" / "eef" / "round1" / "evaluation.json"
    evaluation.write_text("{}")
    opened = OpenRun.open("run", tmp_path / "run")
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), KEY))
    run = client.get(f"/{KEY}/run/")
    assert run.status_code == 200
    assert "could not be read" in run.text
    assert "The results cannot be computed." in run.text
    task = client.get(f"/{KEY}/run/task/{record['task']}?method=eef&round=1")
    assert task.status_code == 200
    assert "could not be read" in task.text


def test_a_running_run_is_followed(tmp_path):
    pipeline = start_run(tmp_path / "run")
    opened = OpenRun.open("run", tmp_path / "run")
    client = TestClient(make_app(Library((opened,)), KEY))
    opened.refresh()
    page = client.get(f"/{KEY}/run/").text
    first = client.get(f"/{KEY}/run/stamp").json()["stamp"]
    assert f'data-stamp="{first}"' in page
    assert first
    plays = {each.kind: rollouts_to_play(opened, each) for each in pipeline.run.stages}
    assert (plays["collect"], plays["evaluate"], plays["explore"]) == (20, 25, None)
    pipeline.execute(pipeline.run.stages[0])
    store = pipeline.run.store("expert") / "trajectories.jsonl"
    text = store.read_text()
    (pipeline.run.path / "expert" / "round0" / "explored.json").unlink()
    store.write_text("".join(text.splitlines(keepends=True)[:7]))
    assert opened.refresh()
    assert "7 of 20 rollouts so far" in client.get(f"/{KEY}/run/").text
    pipeline.execute(pipeline.run.stages[0])
    assert opened.refresh()
    assert client.get(f"/{KEY}/run/stamp").json()["stamp"] != first
    assert "20 rollouts" in client.get(f"/{KEY}/run/").text
    finish(pipeline)
    opened.refresh()
    assert client.get(f"/{KEY}/run/stamp").json()["stamp"] == ""
    assert "data-stamp" not in client.get(f"/{KEY}/run/").text


def test_the_address_in_a_browser_s_command_line_works_once(finished):
    library = open_library([finished])
    client = TestClient(make_app(library, KEY, "ticket"), follow_redirects=False)
    assert client.get("/open/other").status_code == 404
    found = client.get("/open/ticket")
    assert (found.status_code, found.headers["location"]) == (303, f"/{KEY}/")
    assert client.get("/open/ticket").status_code == 404
    assert TestClient(make_app(library, KEY)).get("/open/").status_code == 404


def test_several_runs_have_a_list(finished, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    library = open_library([finished, other])
    for run in library.runs:
        run.refresh()
    client = TestClient(make_app(library, KEY))
    home = read_html(client.get(f"/{KEY}/").text)
    assert {f"/{KEY}/run/", f"/{KEY}/run-2/"} <= set(home.links)
    assert client.get(f"/{KEY}/run-2/tasks").status_code == 200


def test_a_taken_port_is_one_line_with_a_hint():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}") as caught:
            listen("127.0.0.1", port)
        assert "--port 0" in caught.value.hint


def test_a_comparison_opens_with_the_runs_of_its_seeds(tmp_path):
    for seed in (3, 4):
        finish(start_run(tmp_path / "cmp" / f"seed{seed}", seed=seed, rounds=1))
    library = open_library([tmp_path / "cmp"])
    for run in library.runs:
        run.refresh()
    client = TestClient(make_app(library, KEY))
    assert f"/{KEY}/cmp/study" in read_html(client.get(f"/{KEY}/").text).links
    page = client.get(f"/{KEY}/cmp/study")
    assert page.status_code == 200
    reader = read_html(page.text)
    task = next(iter(library.studies[0].study.trials[0].tasks))
    for slug in ("cmp-seed3", "cmp-seed4"):
        assert f"/{KEY}/{slug}/" in reader.links
        assert f"/{KEY}/{slug}/task/{task}" in reader.links
        assert client.get(f"/{KEY}/{slug}/task/{task}").status_code == 200
    assert "Test tasks by seed" in reader.text


def test_trial_files_open_without_their_runs():
    library = open_library([ROOT / "results/trials"])
    assert library.runs == ()
    page = TestClient(make_app(library, KEY)).get(f"/{KEY}/trials/study")
    assert page.status_code == 200
    assert "EEF" in read_html(page.text).text


def test_the_acts_of_a_policy_gradient_are_shown_with_their_advantages(with_acts):
    opened = OpenRun.open("run", with_acts)
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), KEY), raise_server_exceptions=True)
    acts = opened.run.selection("eef+grpo", 1).acts
    counted = client.get(f"/{KEY}/run/").text.partition('class="trained-table"')[2]
    assert f">{len(acts)}</a></td></tr>" in counted
    branched = [each for each in acts if each.advantages[0] == 0]
    assert branched
    for each in (acts[0], branched[0]):
        values = [
            "0" if not value else f"{value:+.2f}".replace("-", "−") for value in each.advantages
        ]
        example = client.get(f"/{KEY}/run/example/{quote(each.id)}?method=eef%2Bgrpo&round=1")
        assert example.status_code == 200
        found = re.findall(r'title="advantage">([^<]*)<', example.text)
        signs = {"+": "▲ ", "−": "▼ ", "0": ""}
        assert found == [signs[value[0]] + value for value in values]
        text = read_html(example.text).text
        assert each.group in text
        members = [other for other in acts if other.group == each.group]
        assert all(other.trajectory in text for other in members)
        trajectory = client.get(f"/{KEY}/run/trajectory/{quote(each.trajectory)}").text
        own = [value for value in values if value != "0"]
        assert re.findall(r"advantage </span>([^<]*)<", trajectory) == own
    task = read_html(client.get(f"/{KEY}/run/task/{acts[0].task}").text).text
    assert "Group of " in task


@pytest.mark.parametrize("content", [None, "empty", "file"])
def test_what_is_no_run_is_one_line_with_a_hint(tmp_path, content):
    path = tmp_path / "x"
    if content == "empty":
        path.mkdir()
    if content == "file":
        path.write_text("")
    result = eef("view", path, "--no-browser")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 2
    assert "hint: " in result.stderr


def test_a_half_written_recipe_is_one_line(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.json"
    recipe.write_text(recipe.read_text()[:100])
    result = eef("view", tmp_path / "run", "--no-browser")
    assert result.exit_code == 2
    assert "recipe.json` is not JSON" in result.stderr


def test_options_of_files_need_static(finished):
    result = eef("view", finished, "--filter", "never")
    assert result.exit_code == 2
    assert "no effect without `--static`" in result.stderr
    result = eef("view", finished, "--static", finished)
    assert "is a run directory" in result.stderr
    result = eef("view", finished, "--static", finished.parent / "x", "--filter", "nevr")
    assert "unknown filter 'nevr'" in result.stderr
    result = eef("view", finished, "--static", finished.parent / "x", "--task", "none")
    assert "has no task 'none'" in result.stderr


def test_the_report_links_into_the_files(tmp_path):
    outcomes = {"a": ["lose", "win", "lose", "win", "win", "lose"]}
    run = explored_run(tmp_path / "run", outcomes)
    write_page(run.read(), read_results(run.read()), run.path / "report.html")
    eef("view", run.path, "--static", tmp_path / "all")
    report = read_html((tmp_path / "all" / "run.report.html").read_text())
    links = [link for link in report.links if not link.startswith("#")]
    assert any(link.startswith("run.task.toy-a.") for link in links)
    assert all((tmp_path / "all" / link).is_file() for link in links)
    assert "run.report.html" in read_html((tmp_path / "all" / "run.html").read_text()).links
    eef("view", run.path, "--static", tmp_path / "one", "--task", "toy/won")
    report = read_html((tmp_path / "one" / "run.report.html").read_text())
    assert not [link for link in report.links if not link.startswith("#")]


def test_the_report_links_into_the_pages(tmp_path):
    outcomes = {"a": ["lose", "win", "lose", "win", "win", "lose"]}
    run = explored_run(tmp_path / "run", outcomes)
    write_page(run.read(), read_results(run.read()), run.path / "report.html")
    opened = OpenRun.open("run", run.path)
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), KEY))
    assert f"/{KEY}/run/report" in read_html(client.get(f"/{KEY}/run/").text).links
    page = client.get(f"/{KEY}/run/report")
    assert page.status_code == 200
    assert ".in-viewer { display: inline; }" in page.text
    links = [link for link in read_html(page.text).links if not link.startswith("#")]
    assert "task/toy/a" in links
    assert {client.get(f"/{KEY}/run/{link}").status_code for link in links} == {200}


def test_drifted_turns_are_marked(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "eef" / "trajectories.jsonl"
    record, *others = map(json.loads, file.read_text().splitlines())
    record["steps"][0]["tokens"] = {"ids": [5, 6], "vocabulary": "x"}
    record["usage"]["drifted_turns"] = 1
    file.write_text("".join(json.dumps(each) + "\n" for each in (record, *others)))
    opened = OpenRun.open("run", tmp_path / "run")
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), KEY))
    page = client.get(f"/{KEY}/run/trajectory/{quote(record['id'])}").text
    assert page.count(">drifted turn</span>") == 1
    assert "<dt>Drifted turns</dt><dd>1</dd>" in page
    assert "local (transformers" in client.get(f"/{KEY}/run/").text
