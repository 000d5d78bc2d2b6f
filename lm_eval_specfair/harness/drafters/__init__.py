"""The drafters of a run in this process."""
