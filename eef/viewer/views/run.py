"""The views of a run as a whole: its stages and curves, its tasks, its behaviors."""

from __future__ import annotations

from typing import Any

from eef.analysis.results import Results
from eef.errors import EefError
from eef.pipeline.stages import BC, EXPERT, LOOP, Stage, round_methods
from eef.pipeline.status import StageStatus, read_statuses
from eef.report.behavior_charts import draw_behavior_rounds
from eef.report.formatting import describe_env, describe_inference
from eef.report.html import Html
from eef.report.sections.evaluation import draw_curves, draw_scores
from eef.report.status import stage_progress
from eef.report.summary import headline, setting, verdict
from eef.viewer.address import Address
from eef.viewer.index.reader import Reader, stage_counts
from eef.viewer.open_run import OpenRun
from eef.viewer.page import Page
from eef.viewer.tasks import (
    FILTERS,
    SORTS,
    count_filters,
    find_filter,
    list_tasks,
)


def run_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """Methods × rounds: stages, the results so far and the curves."""
    results, error = _results(run)
    recipe = run.run.recipe
    return Page(
        template="run.html",
        title=recipe.name,
        up=Address.of("home"),
        variables={
            "results": results,
            "error": error,
            "headline": headline(results) if results else recipe.name,
            "verdict": verdict(results) if results else "",
            "setting": setting(results) if results else "",
            "env": _env(run),
            "inference": describe_inference(results.fingerprint) if results else "",
            "scores": draw_scores(results).content if results else "",
            "curves": _content(draw_curves(results)) if results else "",
            "stages": _stages(run, reader),
            "trained": _trained(reader),
            "filters": [each for each in FILTERS if each.name],
            "counts": count_filters(reader),
            "problems": reader.problems(),
        },
    )


def tasks_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """The table of tasks."""
    get = address.get
    found = list_tasks(
        reader,
        filter=get("filter"),
        sort=get("sort"),
        search=get("q"),
        page=int(get("page")) if get("page").isdecimal() else 1,
    )
    chosen = find_filter(get("filter"))

    def other(**changes: Any) -> Address:
        kept = {key: get(key) for key in ("filter", "sort", "q")}
        return Address.of("tasks", run.slug, **{**kept, **changes})

    return Page(
        template="tasks.html",
        title="Tasks" if not chosen.name else f"Tasks: {chosen.title.lower()}",
        up=Address.of("run", run.slug),
        before=other(page=found.page - 1) if found.page > 1 else None,
        after=other(page=found.page + 1) if found.page < found.pages else None,
        variables={
            "found": found,
            "filters": FILTERS,
            "counts": count_filters(reader),
            "chosen": chosen,
            "sorts": SORTS,
            "sort": get("sort"),
            "q": get("q"),
            "other": other,
        },
    )


def behaviors_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """The behaviors of each method over rounds."""
    results, error = _results(run)
    return Page(
        template="behaviors.html",
        title="Behaviors",
        up=Address.of("run", run.slug),
        variables={
            "error": error,
            "charts": draw_behavior_rounds(results) if results else "",
            "note": run.spec.behaviors_note,
        },
    )


def _results(run: OpenRun) -> tuple[Results | None, str]:
    """The results so far, or what is wrong with a file of the run."""
    try:
        return run.results(), ""
    except EefError as error:
        return None, error.message


def _env(run: OpenRun) -> str:
    try:
        return describe_env(run.run.fingerprint)
    except EefError:
        return run.run.recipe.env.name


def _trained(reader: Reader) -> dict[str, dict[int, dict[str, tuple[int, str]]]]:
    """The records that each round trains on, by method, round and kind: their number, and the id of
    the first."""
    found: dict[str, dict[int, dict[str, tuple[int, str]]]] = {}
    for method, round, kind, count, name, _ in reader.query(
        "SELECT method, round, kind, count(*), name, min(id) FROM examples "
        "GROUP BY method, round, kind ORDER BY min(id)"  # `name` is that of the least id
    ):
        found.setdefault(method, {}).setdefault(round, {})[kind] = (count, name)
    return found


def _content(section: Any) -> Html | str:
    return section.content if section else ""


def _stages(run: OpenRun, reader: Reader) -> list[dict[str, Any]]:
    """One row per method; each of its rounds has the state of its stages."""
    statuses = {each.stage: each for each in read_statuses(run.run)}
    counts = stage_counts(reader)
    methods = [EXPERT, BC, *round_methods(run.run.recipe)]
    rows = []
    for method in methods:
        rounds = sorted({stage.round for stage in statuses if stage.method == method})
        kinds = ("collect", *LOOP)
        rows.append(
            {
                "method": method,
                "rounds": [
                    {
                        "round": round,
                        "stages": [
                            _stage(run, statuses[stage], counts)
                            for kind in kinds
                            if (stage := Stage(method, round, kind)) in statuses
                        ],
                    }
                    for round in rounds
                ],
            }
        )
    return rows


def rollouts_to_play(run: OpenRun, stage: Stage) -> int | None:
    """The number of rollouts that a stage ends with; None if it depends on what is planned."""
    recipe, fingerprint = run.run.recipe, run.run.fingerprint
    if stage.kind == "evaluate":
        return int(fingerprint["test_tasks"])
    if stage.kind == "collect":
        return int(fingerprint["train_tasks"]) * len(recipe.expert.names)
    if stage.kind == "explore":
        budget = recipe.of_method(stage.method).budget
        if budget.rollouts_per_task:
            return budget.rollouts_per_task * int(fingerprint["train_tasks"])
        return budget.rollouts
    return None


def _stage(
    run: OpenRun, status: StageStatus, counts: dict[Stage, tuple[int, int]]
) -> dict[str, str]:
    """The state of a stage: `done`, `active` (started, or its predecessors are done), `damaged` or
    `waiting`."""
    stage = status.stage
    if status.state == "done":
        try:
            return {"kind": stage.kind, "state": "done", "text": run.status(stage)}
        except EefError as error:
            return {"kind": stage.kind, "state": "damaged", "text": error.message}
    played, won = counts.get(stage, (0, 0))
    texts = [stage_progress(status)]
    if played and not status.progress:
        total = rollouts_to_play(run, stage)
        of = f" of {total:,}" if total else ""
        texts.append(f"{played:,}{of} rollouts so far, {won:,} won")
    state = "waiting" if status.state == "waiting" else "active"
    return {"kind": stage.kind, "state": state, "text": "; ".join(filter(None, texts))}
