"""`EXECUTORS` maps the kind of a stage to the function that executes it."""

from __future__ import annotations

from collections.abc import Callable

from eef.pipeline.context import RunContext
from eef.pipeline.execution.collect import collect
from eef.pipeline.execution.evaluate import evaluate
from eef.pipeline.execution.explore import explore_round
from eef.pipeline.execution.select import select
from eef.pipeline.execution.train import train
from eef.pipeline.stages import Stage, StageKind
from eef.utils.progress import OnProgress

Executor = Callable[[RunContext, Stage, OnProgress], None]

EXECUTORS: dict[StageKind, Executor] = {
    "collect": collect,
    "explore": explore_round,
    "select": select,
    "train": train,
    "evaluate": evaluate,
}
