"""Records to sums: by document, and by the groups that requests belong to."""
