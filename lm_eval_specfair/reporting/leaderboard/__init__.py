"""Leaderboard entries: packed from records, checked by packing again, ranked on a page."""
