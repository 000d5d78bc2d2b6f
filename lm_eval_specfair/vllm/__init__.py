"""vLLM as a backend: arguments, engine, decoder, counts, scheduler, patches, conformance."""
