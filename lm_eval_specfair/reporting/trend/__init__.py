"""Trends: what runs of the same requests say one after the other."""
