"""The pages in a real browser: every view, keys, filters, a running run, hostile texts, files.

Needs Chromium (`apt-get install chromium`; `EEF_CHROMIUM` names another path) and, to check the
accessibility, axe-core (`npm install axe-core`; `EEF_AXE` is the path of `axe.min.js`). Run with
`make test-browser`.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from eef.viewer import static_index
from eef.viewer.open_run import OpenRun
from tests.fakes import ROOT
from tests.fakes.hostile import HOSTILE, hostile_run
from tests.fakes.scripted_run import finish, start_run
from tests.fakes.small_run import eef, start

CHROMIUM = os.environ.get("EEF_CHROMIUM") or shutil.which("chromium")
AXE = Path(
    os.environ.get("EEF_AXE") or ROOT / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`"),
]
SIZES = {"desktop": (1180, 860), "phone": (380, 780)}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def serving(*directories):
    """`eef view` in a process of its own; gives the address of the first run."""
    process = start("view", *directories, "--no-browser")
    try:
        home = process.stdout.readline().strip()
        assert home.startswith("http://127.0.0.1:"), process.communicate()
        yield f"{home}{directories[0].name}/"
    finally:
        process.terminate()
        process.communicate(timeout=10)


@contextmanager
def page_of(browser, *, size="desktop", scheme="light", offline=True):
    """A page that records console errors, dialogs and requests to other hosts, and allows none."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page, found = context.new_page(), []
    page.on("console", lambda each: found.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda each: found.append(str(each)))
    page.on("dialog", lambda each: (found.append(f"dialog {each.message}"), each.dismiss()))
    page.on("request", lambda each: found.append(each.url) if _is_outside(each.url) else None)
    yield page
    context.close()
    assert found == []


def _is_outside(url):
    return not re.match(r"(http://127\.0\.0\.1:|file:|data:|about:)", url)


@pytest.fixture(scope="module")
def server(finished):
    with serving(finished) as address:
        yield address


@pytest.fixture(scope="module")
def views(finished):
    """An address of every view, relative to the run."""
    run = OpenRun.open("run", finished)
    run.refresh()
    with run.index.connect() as reader:
        branch = reader.rows("method = 'eef' AND t > 0")[0]
        tests = reader.rows("phase = 'evaluate' AND task = ?", reader.tasks("split='test'")[0].task)
        example = reader.examples("method = 'eef' AND state >= 0")[-1]
    return {
        "run": "",
        "tasks": "tasks",
        "search": "tasks?q=key&filter=newly",
        "task": f"task/{branch.task}",
        "test task": f"task/{tests[0].task}",
        "trajectory": f"trajectory/{quote(branch.name)}",
        "example": f"example/{quote(example.name)}?method=eef&round={example.round}",
        "compare": f"compare?a={quote(tests[0].name)}&b={quote(tests[-1].name)}",
        "behaviors": "behaviors",
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_opens(browser, server, views, size, scheme):
    with page_of(browser, size=size, scheme=scheme) as page:
        for name, address in views.items():
            response = page.goto(server + address)
            assert response.status == 200, name
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= SIZES[size][0], f"{name} is {width} wide"
            assert page.locator("h1").count() == 1, name


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: `npm install axe-core`")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, server, views, scheme):
    source = AXE.read_text(encoding="utf-8")
    with page_of(browser, scheme=scheme) as page:
        for name, address in views.items():
            page.goto(server + address)
            page.evaluate(source)
            found = page.evaluate("axe.run()")["violations"]
            serious = [
                (each["id"], node["html"][:120], node["failureSummary"])
                for each in found
                if each["impact"] in ("serious", "critical")
                for node in each["nodes"][:3]
            ]
            assert serious == [], name


def test_keys(browser, server, views):
    with page_of(browser) as page:
        page.goto(server + "tasks")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        task = page.locator("tr.at th a").first.inner_text()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/task/{task}")
        page.keyboard.press("n")
        page.wait_for_url(lambda url: "/task/" in url and not url.endswith(f"/{task}"))
        page.keyboard.press("p")
        page.wait_for_url(f"**/task/{task}")
        page.keyboard.press("u")
        page.wait_for_url("**/tasks")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "q"
        page.keyboard.type("jkn")  # keys are text here
        assert page.input_value("#q") == "jkn"
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.innerText").startswith("Never solved")
        page.keyboard.press("Enter")
        page.wait_for_url("**/tasks?filter=never")
        page.keyboard.press("?")
        assert page.locator("dialog[open]").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        page.goto(server + views["trajectory"])
        folded = page.locator("main details:not([open])").count()
        assert folded
        page.keyboard.press("o")
        assert page.locator("main details:not([open])").count() == 0
        page.keyboard.press("o")
        assert page.locator("main details[open]").count() == 0


def test_filters_and_search(browser, server):
    with page_of(browser) as page:
        page.goto(server + "tasks")
        for link in page.locator(".filters a").all():
            assert link.get_attribute("href")
        expected = int(
            page.locator(".filters a", has_text="Expert failed").inner_text().split()[-1]
        )
        page.click(".filters a:has-text('Expert failed')")
        assert page.locator("tr[data-row]").count() == expected
        page.select_option("#sort", "rate")
        page.wait_for_url("**sort=rate**")
        page.fill("#q", "action:open")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=action**")
        first = page.locator(".match a").first
        first.click()
        assert page.locator("mark").count()


def test_an_example_loads_its_tokens(browser, server, views):
    with page_of(browser) as page:
        page.goto(server + views["example"])
        part = page.locator(".token-part")
        part.wait_for(timeout=60_000)
        assert part.locator(".note").inner_text()


def test_a_running_run_is_followed(browser, tmp_path):
    pipeline = start_run(tmp_path / "run")
    pipeline.execute(pipeline.run.stages[0])
    with serving(tmp_path / "run") as address, page_of(browser) as page:
        page.goto(address)
        assert page.locator(".live").count() == 1
        page.evaluate("window.kept = true")
        before = page.locator(".stage.done").count()
        for stage in pipeline.run.stages[1:4]:
            pipeline.execute(stage)
        page.locator(".stage.done").nth(before).wait_for(timeout=15_000)
        finish(pipeline)
        page.locator(".live").wait_for(state="detached", timeout=20_000)
        assert page.evaluate("window.kept"), "the page was renewed without being loaded again"


def test_a_renewed_page_still_sorts(browser, tmp_path):
    pipeline = start_run(tmp_path / "run")
    pipeline.execute(pipeline.run.stages[0])
    with serving(tmp_path / "run") as address, page_of(browser) as page:
        page.goto(f"{address}tasks")
        page.evaluate("document.getElementById('sort').old = true")
        finish(pipeline)
        for _ in range(100):
            if not page.evaluate("document.getElementById('sort').old"):
                break
            page.wait_for_timeout(200)
        page.select_option("#sort", "rate")
        page.wait_for_url("**sort=rate**")


def test_hostile_texts_do_nothing(browser, finished, tmp_path):
    task, names = hostile_run(finished, tmp_path / "run")
    with serving(tmp_path / "run") as address, page_of(browser) as page:
        page.goto(f"{address}task/{task}")
        for name, text in zip(names, HOSTILE, strict=True):
            page.goto(f"{address}trajectory/{quote(name)}")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= SIZES["desktop"][0], text[:40]
            assert page.locator("h1").is_visible()
            if text.startswith("<"):
                assert text in page.locator(".notice pre").inner_text()
        page.wait_for_timeout(200)  # a script would have run by now


def test_outcomes_have_a_sign_and_a_word(browser, server, views):
    with page_of(browser) as page:
        for name in ("tasks", "task", "trajectory", "compare"):
            page.goto(server + views[name])
            texts = page.locator(".outcome").all_text_contents()
            assert texts, name
            assert all(re.search(r"[●○✕]\s*(won|lost|failed)", text) for text in texts), name


def test_a_page_prints_without_its_controls(browser, server, views):
    with page_of(browser) as page:
        page.goto(server + views["task"])
        page.emulate_media(media="print")
        assert not page.locator("header.top").is_visible()
        assert page.locator("h1").is_visible()


@pytest.fixture(scope="module")
def files(finished, tmp_path_factory):
    """The pages of a run as files, with small files of rows and words."""
    out = tmp_path_factory.mktemp("files") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_index, "ROWS", 7)
        patch.setattr(static_index, "WORDS_SIZE", 1000)
        first = Path(eef("view", finished, "--static", out).stdout.strip())
    assert first == out / "index.html"
    return out


def test_files_open_without_a_server(browser, files):
    with page_of(browser) as page:
        page.goto((files / "index.html").as_uri())
        page.click("main li a")
        page.wait_for_url("**/run.html")
        assert page.evaluate("getComputedStyle(document.body).margin") == "0px"
        page.locator("header.top a", has_text="Tasks").click()
        page.locator("tr[data-row] th a").first.click()
        assert page.locator("h1").count() == 1
        page.keyboard.press("n")
        page.wait_for_url("**/run.task.*")
        links = {
            link.partition("?")[0]
            for path in files.glob("*.html")
            for link in re.findall(
                r'(?:href|src|action)="([^"#]+)', path.read_text(encoding="utf-8")
            )
        }
        assert {link for link in links if not (files / link).is_file()} == set()


def shown_tasks(page):
    """The table of tasks as it is read: ids and matches of a search."""
    rows = page.locator("tr[data-row] th > a").all_inner_texts()
    matches = page.locator(".match a").all_inner_texts()
    return rows, matches


QUERIES = (
    "filter=newly",
    "filter=expert-failed&sort=rate",
    "filter=one&sort=-rate",
    "sort=task&filter=test",
    "q=key",
    "q=action:open",
    "q=action:open%20key&sort=reward",
    "q=thought:OPEN&filter=train",
    "q=che",
    "q=instruction:key%20nothing",
    "q=%5B%5D",
    "q=&filter=none",
)


def test_files_are_filtered_sorted_and_searched_as_by_the_server(browser, server, files):
    with page_of(browser) as page, page_of(browser) as other:
        for query in QUERIES:
            page.goto(f"{server}tasks?{query}")
            other.goto(f"{(files / 'run.tasks.html').as_uri()}?{query}")
            expected, matches = shown_tasks(page)
            other.wait_for_function(
                "count => document.querySelectorAll('tr[data-row]').length === count",
                arg=len(expected),
                timeout=5000,
            )
            if matches:
                other.locator(".match").first.wait_for()
            assert shown_tasks(other) == (expected, matches), query
            assert other.locator(".filters [aria-current]").count() == 1 or "none" in query


def test_the_table_in_files_has_pages(browser, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(static_index, "PAGE", 8)
    eef("view", finished, "--static", tmp_path / "pages", "--filter", "train")
    with page_of(browser) as page:
        page.goto((tmp_path / "pages" / "run.tasks.html").as_uri() + "?sort=task")
        page.locator("text=page 1 of 3").wait_for()
        first = shown_tasks(page)
        page.keyboard.press("n")
        page.locator("text=page 2 of 3").wait_for()
        assert not set(shown_tasks(page)[0]) & set(first[0])
        page.keyboard.press("p")
        page.locator("text=page 1 of 3").wait_for()
        assert shown_tasks(page) == first


def test_a_search_in_files_leads_to_the_words(browser, files):
    with page_of(browser) as page:
        page.goto((files / "run.html").as_uri())
        page.fill("#q", "action:open")
        page.keyboard.press("Enter")
        page.wait_for_url("**/run.tasks.html?q=action*")
        page.locator(".match a").first.click()
        page.wait_for_url("**/run.trajectory.*q=action*")
        assert page.locator("#steps mark").count()
        page.goto((files / "run.tasks.html").as_uri())
        page.keyboard.press("f")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_url("**?filter=never")
        page.select_option("#sort", "rate")
        page.wait_for_url("**sort=rate*")
        assert page.input_value("#filter") == "never"


def test_files_compare_any_two_rollouts_as_the_server_does(browser, server, finished, files):
    run = OpenRun.open("run", finished)
    run.refresh()
    with run.index.connect() as reader:
        task = reader.rows("method = 'eef' AND t > 0")[0].task
        names = [row.name for row in reader.rows_of_task(task)]
        test = reader.tasks("split = 'test'")[0].task
        tests = [row.name for row in reader.rows_of_task(test)]
    pairs = [(names[0], names[-1]), (names[1], names[2]), (names[2], names[2])]
    pairs.append((tests[0], tests[-1]))
    with page_of(browser) as page, page_of(browser) as other:
        for a, b in pairs:
            query = f"?a={quote(a, safe='')}&b={quote(b, safe='')}"
            page.goto(f"{server}compare{query}")
            [file] = files.glob(f"run.compare.{task if a in names else test}.*".replace("/", "-"))
            other.goto(file.as_uri() + query)
            other.locator(".pairs .end").nth(1).wait_for()
            for part in ("#side-by-side h2", ".pairs"):
                texts = [each.locator(part).inner_text() for each in (page, other)]
                assert texts[0] == texts[1], (a, b)
            assert other.title() == page.title()
            assert other.input_value("select[name=b]") == b
        other.select_option("select[name=a]", tests[1])
        other.click(".sides button")
        other.wait_for_url("**a=*")
        assert other.input_value("select[name=a]") == tests[1]
