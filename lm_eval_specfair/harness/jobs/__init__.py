"""A run's jobs: in which order they are decoded, which are drawn, and which are checked."""
