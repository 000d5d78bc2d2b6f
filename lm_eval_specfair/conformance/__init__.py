"""A conformance suite for speculative decoding: known bug classes against a decoder's adapter.

Nothing is imported here; `conformance.suite` runs the checks, `conformance.adapter` says what a
decoder must offer to be checked.
"""
