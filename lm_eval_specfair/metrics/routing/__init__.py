"""The choice of a drafter and a draft length for each group."""
