"""The draft length that would have served each group best, from the records of other lengths."""
