"""What drafters would have proposed along finished texts."""
