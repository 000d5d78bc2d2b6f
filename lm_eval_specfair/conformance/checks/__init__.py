"""The checks, one module per part of a decoder; `conformance.suite` lists them."""
