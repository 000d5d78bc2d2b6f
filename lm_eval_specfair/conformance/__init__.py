"""A conformance suite for speculative decoding: known bug classes against a decoder's adapter."""
