"""The report of a policy of draft lengths."""
