"""The pipeline: a recipe executed stage by stage in a run directory."""
