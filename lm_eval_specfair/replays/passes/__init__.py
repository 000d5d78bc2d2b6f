"""One forward pass over finished texts: of drafters, and of the target."""
