"""Everything about vLLM: its engine, counts, arguments, scheduler and what is patched on CPUs."""
