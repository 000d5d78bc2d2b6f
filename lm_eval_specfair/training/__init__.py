"""Text and a frozen target in, a drafter out whose speed-up is shared as the weighting asks."""
