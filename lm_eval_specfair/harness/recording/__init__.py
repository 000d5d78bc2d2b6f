"""What models of every backend share: requests decoded, recorded, and the run's end."""
