"""Definitions of metrics: each a function of sums, with its unit and its direction."""
