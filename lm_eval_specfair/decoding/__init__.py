"""Prompts in, tokens and counts out: drafting, verifying, accepting."""
