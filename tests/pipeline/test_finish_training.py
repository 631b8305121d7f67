"""What follows a training: it is done by later stages if the training's process was ended first."""

from __future__ import annotations

import pytest

from eef.pipeline.execution.checkpoints import _remove_checkpoint
from eef.pipeline.stages import Stage
from eef.utils.jsonl import write_json
from tests.fakes.scripted_run import start_run


def trained(number):
    return Stage("rft2", number, "train")


@pytest.mark.parametrize("keep", ["all", "evaluated"])
def test_what_an_ended_process_left_is_finished_by_the_next_stage(tmp_path, keep):
    """The training of a scripted run writes its manifest last, and nothing after it."""
    pipeline = start_run(
        tmp_path / "run",
        methods=["bc", "rft2"],
        options={},
        tasks={"train": 5, "test": 3},
        overrides={"rft2": {"evaluate": {"every": 2}, "train": {"keep_checkpoints": keep}}},
    )
    run = pipeline.run
    for stage in run.stages:
        if stage.kind == "train":
            run.training_checkpoints(stage).mkdir(parents=True)
        if stage == trained(2).sibling("evaluate"):
            run.optimizer(trained(1)).mkdir()
            run.optimizer(trained(2)).mkdir()
        pipeline.execute(stage)
        if stage == trained(2).sibling("explore"):
            assert "model" in (run.checkpoint(trained(1)) / "README.md").read_text()
    assert not [stage for stage in run.stages if run.training_checkpoints(stage).exists()]
    assert not run.optimizer(trained(1)).exists()
    assert run.optimizer(trained(2)).is_dir()
    kept = {path.name for path in run.checkpoint(trained(1)).iterdir()}
    assert kept == ({"manifest.json", "README.md"} if keep == "all" else {"removed.json"})


def test_a_checkpoint_with_directories_is_removed(tmp_path):
    templates = tmp_path / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").touch()
    write_json(tmp_path / "manifest.json", {})
    _remove_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["removed.json"]
