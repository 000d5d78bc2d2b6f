"""Verbs that measure: runs, replays, coverage, the conformance suite, and the data they need."""
