"""`backend=vllm`: its arguments, its decoder, and what a pass over finished texts adds."""
