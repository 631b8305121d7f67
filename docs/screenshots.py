"""Pictures of the pages of `eef view` in `docs/`, taken from a finished run of the demo.

make demo
python -m docs.screenshots runs/demo       (needs Chromium: `apt-get install chromium`)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

from eef.viewer.open_run import OpenRun

OUT = Path(__file__).parent / "view"
WIDTH, HEIGHT = 1180, 820


def addresses(path: Path) -> dict[str, str]:
    """A page of each view, relative to the run: a task that needed recovery, and what it led to."""
    run = OpenRun.open("run", path)
    run.refresh()
    with run.index.connect() as reader:
        example = reader.examples("method = 'eef' AND state > 0 ORDER BY round, id")[0]
        test = reader.tasks("split = 'test' AND only_by = 'eef' ORDER BY position")[0]
        tests = reader.rows("task = ? AND phase = 'evaluate' ORDER BY round", test.task)
        a, b = tests[0], [row for row in tests if row.method == "eef"][-1]
    return {
        "run": "",
        "tasks": "tasks?filter=recovery&sort=rate",
        "task": f"task/{example.task}?method=eef&round={example.round}",
        "trajectory": f"trajectory/{quote(example.trajectory)}",
        "example": f"example/{quote(example.name)}?method=eef&round={example.round}",
        "compare": f"compare?a={quote(a.name)}&b={quote(b.name)}",
        "behaviors": "behaviors",
    }


def take(page: Page, server: str, pages: dict[str, str]) -> None:
    for name, address in pages.items():
        page.goto(server + address)
        if name == "example":
            page.locator(".token-part").wait_for(timeout=60_000)
        page.evaluate("scrollTo(0, 0)")
        height = min(page.evaluate("document.documentElement.scrollHeight"), 1500)
        page.set_viewport_size({"width": WIDTH, "height": max(HEIGHT, height)})
        page.screenshot(path=OUT / f"{name}.png")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def main() -> None:
    path = Path(sys.argv[1])
    chromium = os.environ.get("EEF_CHROMIUM") or shutil.which("chromium")
    OUT.mkdir(exist_ok=True)
    pages = addresses(path)
    server = subprocess.Popen(
        [sys.executable, "-m", "eef", "view", str(path), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None, "it is a pipe"
    try:
        root = server.stdout.readline().strip() + f"{path.resolve().name}/"
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser.new_page(), root, pages)
            dark = browser.new_context(
                color_scheme="dark", viewport={"width": WIDTH, "height": HEIGHT}
            ).new_page()
            dark.goto(root + pages["task"])
            dark.screenshot(path=OUT / "task-dark.png")
            phone = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
            phone.goto(root + pages["task"])
            phone.screenshot(path=OUT / "task-phone.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()
    for picture in sorted(OUT.glob("*.png")):
        print(picture)


if __name__ == "__main__":
    main()
