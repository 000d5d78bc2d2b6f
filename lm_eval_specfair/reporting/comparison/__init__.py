"""The report of a comparison: tables, text, JSON, JUnit, page."""
