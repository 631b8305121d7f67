"""The stage `select`: the method chooses what to train on."""

from __future__ import annotations

from eef.pipeline.context import RunContext
from eef.pipeline.stages import Stage
from eef.utils.jsonl import write_json, write_jsonl
from eef.utils.progress import OnProgress


def select(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Let the method choose what to train on."""
    run = context.run
    trajectories = run.trajectories(stage.method)
    tasks = [task.id for task in context.train_tasks]
    # wins on tasks of no environment at hand (imported, unverified) are trained on as well
    tasks += (item.task for item in trajectories if item.success and item.by_expert)
    selection = run.methods[stage.method].select(
        trajectories, list(dict.fromkeys(tasks)), stage.round
    )
    counts = dict(selection.counts)
    for name, file in run.selection_files(stage).items():
        items = getattr(selection, name)
        if items or name == "examples":
            write_jsonl(file, (each.to_record() for each in items))
            counts[name] = len(items)
    write_json(run.last_file(stage), counts)
