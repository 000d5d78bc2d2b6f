"""Where drafts are lost, for people: sentences and tables."""
