"""A drafter audited on texts that exist: one pass over each text instead of decoding it again."""
