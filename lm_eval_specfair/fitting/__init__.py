"""Drafters that are fitted on finished texts in seconds: `specfair fit`."""
