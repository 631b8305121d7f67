"""The directories of a run and of a comparison."""

from __future__ import annotations

from eef.pipeline.run_directory import is_run, runs_of


def test_the_runs_of_a_comparison_are_in_the_order_of_their_seeds(tmp_path):
    for name in ("seed10", "seed2", "seed0", "seedling"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").touch()
    (tmp_path / "seed3").mkdir()
    assert list(runs_of(tmp_path).items()) == [
        (seed, tmp_path / f"seed{seed}") for seed in (0, 2, 10)
    ]
    assert is_run(tmp_path / "seed2")
    assert not is_run(tmp_path / "seed3")
    assert not is_run(tmp_path)
    assert runs_of(tmp_path / "seed2") == {}
