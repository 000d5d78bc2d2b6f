"""What a run leaves on disk: log, checkpoints, results, model card."""
