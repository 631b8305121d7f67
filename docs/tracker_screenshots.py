"""Pictures of a tracked run in the pages of TensorBoard and MLflow, in `docs/tracking/`.

make demo
make test-track                     (makes `.venv-track`, which has MLflow and TensorBoard)
.venv-track/bin/python -m eef run runs/demo --set 'track=["tensorboard", "mlflow"]'
.venv-track/bin/python -m docs.tracker_screenshots runs/demo
                                    (needs Chromium: `apt-get install chromium`)
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parent / "tracking"
WIDTH, HEIGHT = 1180, 760
SHOWN = "^(eef|rft6)/(loss|win_rate)"
SECONDS = 180.0
SECONDS_TO_DRAW = 15


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """A server on a free port of loopback, as a module of this Python; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while not answers(address):
            assert process.poll() is None, f"`{command[0]}` has ended"
            assert time.monotonic() < deadline, f"`{command[0]}` does not answer"
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=10).close()  # noqa: S310 – http
    except OSError:
        return False
    return True


def take_tensorboard(page: Page, tracking: Path) -> None:
    with serving("tensorboard.main", "--logdir", str(tracking)) as address:
        page.goto(f"{address}/?darkMode=false&tagFilter={quote(SHOWN)}#timeseries")
        page.get_by_text("eef/loss", exact=True).wait_for(timeout=1000 * SECONDS)
        page.get_by_role("button", name="Settings").last.click()  # closes the panel
        page.wait_for_timeout(SECONDS_TO_DRAW * 1000)
        page.screenshot(path=OUT / "tensorboard.png")


def take_mlflow(page: Page, tracking: Path) -> None:
    database = (tracking / "mlflow.db").resolve()
    with closing(sqlite3.connect(database)) as rows:
        ((experiment, run),) = rows.execute("SELECT experiment_id, run_uuid FROM runs")
    store = f"sqlite:///{database}"
    with serving("mlflow", "ui", "--workers", "1", "--backend-store-uri", store) as address:
        page.goto(f"{address}/#/experiments/{experiment}/runs/{run}/model-metrics")
        page.get_by_placeholder("Search metric charts").wait_for(timeout=1000 * SECONDS)
        page.get_by_role("button", name="Close").click()  # its assistant
        page.get_by_placeholder("Search metric charts").fill(SHOWN)
        page.wait_for_timeout(SECONDS_TO_DRAW * 1000)
        page.screenshot(path=OUT / "mlflow.png")


def main() -> None:
    tracking = Path(sys.argv[1]) / "tracking"
    chromium = os.environ.get("EEF_CHROMIUM") or shutil.which("chromium")
    OUT.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        take_tensorboard(page, tracking)
        take_mlflow(page, tracking)
        browser.close()
    for picture in sorted(OUT.glob("*.png")):
        print(picture)


if __name__ == "__main__":
    main()
