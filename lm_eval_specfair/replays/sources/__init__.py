"""Finished texts from where people have them, as token ids."""
