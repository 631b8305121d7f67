"""Models on disk: loading, checkpoints and hubs."""
