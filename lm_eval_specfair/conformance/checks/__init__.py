"""The checks, in groups; `conformance.suite` puts them together."""
