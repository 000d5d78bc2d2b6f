"""The engine of vLLM behind `Request` and `Completion`; vLLM is imported where it is used."""
