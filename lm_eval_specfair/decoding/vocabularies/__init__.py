"""Drafters with a tokenizer of their own: tokens as bytes, shared tokens, drafts through text."""
