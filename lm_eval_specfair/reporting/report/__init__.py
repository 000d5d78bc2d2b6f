"""The report of one run, or of several read together: tables, text, JSON, page."""
