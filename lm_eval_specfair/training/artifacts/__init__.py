"""The files that a training run leaves: log, checkpoints, results, model card."""
