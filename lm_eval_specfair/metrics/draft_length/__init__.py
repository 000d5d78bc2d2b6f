"""Which draft length would have served each group best, from the records of other lengths."""
