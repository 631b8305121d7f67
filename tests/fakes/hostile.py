"""A run whose texts try to be more than text."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from eef.pipeline.run_directory import RunDirectory
from eef.rollouts.store import Store
from tests.fakes.scripted_run import UGLY

HOSTILE = (
    UGLY,
    "<img src=http://example.invalid/x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\u202ereversed\u202c \u200fmark",
    "x" * 100_000,
    "\x00\x07\x1b[31mred\x1b[0m",
    "half \ud83d emoji",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(3)",
    "<a href='http://example.invalid'>link</a><style>* { display: none }</style>",
)


def hostile_run(finished: Path, directory: Path) -> tuple[str, list[str]]:
    """A copy of a run with one failed rollout per hostile text, in all of its texts.

    Returns the task and the ids of these rollouts.
    """
    shutil.copytree(finished, directory)
    run = RunDirectory.open(directory)
    names = []
    with Store.open(run.store("expert")) as store:
        base = store.trajectories
    with Store.open(run.store("eef"), base=base) as store:
        first = next(item for item in store.trajectories if item.by_student)
        for number, text in enumerate(HOSTILE):
            step = replace(first.steps[0], observation=text, completion=text, action=text)
            names.append(f"hostile {number} <b>'\"&#?")
            store.append(
                replace(
                    first,
                    id=names[-1],
                    steps=(step,),
                    final_observation=text,
                    start=None,
                    error=text,
                    status="error",
                    error_kind="policy",
                    reward=None,
                    success=False,
                )
            )
    return first.task, names
