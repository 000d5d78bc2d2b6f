"""From files to batches: items, splits, rows of tokens, batches whose groups are as asked."""
