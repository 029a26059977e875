"""A run's folder: checkpoints, its config and versions, its metrics."""
