"""The ticket desk: a package outside `eef`, run from its own folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fakes import ROOT

pytestmark = pytest.mark.torch


def test_its_own_tests_pass():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT / "examples" / "ticket-desk",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_its_student_calls_tools(monkeypatch):
    """The template of the student renders tools, and what it renders is read back."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "ticket-desk"))
    from ticket_desk.desk import TicketDesk
    from ticket_desk.student import build_tokenizer

    from eef.env import toolset_of
    from eef.renderer import Renderer

    env = TicketDesk()
    renderer = Renderer(build_tokenizer(), tools=toolset_of(env))
    renderer.check(env.tool_prompt)
    assert renderer.template.form.name == "hermes"
