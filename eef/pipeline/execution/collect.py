"""The stage `collect`: the experts play, or are imported."""

from __future__ import annotations

from typing import Any

from eef.pipeline.context import RunContext
from eef.pipeline.execution.playing import finish_rollouts, play_specs
from eef.pipeline.experts import (
    api_usage,
    expert_rollout_id,
    import_expert,
    is_file,
    make_expert_policy,
    make_importer,
)
from eef.pipeline.stages import EXPERT, Stage
from eef.rollouts.specs import RolloutSpec
from eef.rollouts.store import Store
from eef.utils.progress import OnProgress
from eef.utils.seeds import derive_seed


def collect(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Let every expert play every training task once; import the experts that are files."""
    run, sources = context.run, dict[str, Any]()
    names = run.recipe.expert.names
    importer = make_importer(context) if any(map(is_file, names)) else None
    with Store.open(run.store(EXPERT)) as store:
        for name in names:
            if importer and is_file(name):
                sources[name] = import_expert(importer, name, store, stage, on_progress)
                continue
            expert = make_expert_policy(context, name)
            specs = [
                RolloutSpec(
                    expert_rollout_id(expert.author, task.id),
                    task,
                    None,
                    derive_seed(run.recipe.seed, expert.author, task.id),
                    0,
                    run.recipe.expert.prompt_of(name),
                )
                for task in context.expert_tasks
            ]
            play_specs(context, stage, specs, store, expert, on_progress, expert=name)
        usage = api_usage(context)
        sources |= {"api": usage} if usage else {}
        finish_rollouts(context, stage, store.trajectories, sources)
