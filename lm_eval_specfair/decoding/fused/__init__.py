"""A forward pass of Llama-like models in fewer and larger operations."""
