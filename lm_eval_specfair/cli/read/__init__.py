"""Verbs that read what was measured: reports, comparisons, plans, submissions, exports."""
