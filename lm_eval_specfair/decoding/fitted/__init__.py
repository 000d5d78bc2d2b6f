"""Drafters that are fitted in seconds instead of trained: n-grams, and lookups of texts."""
