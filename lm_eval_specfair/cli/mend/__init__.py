"""Verbs that mend: drafters trained and draft lengths chosen so that groups share the speed-up."""
