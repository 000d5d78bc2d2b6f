"""vLLM's engine behind this package's requests and completions; vLLM is imported when it is used."""
