"""What lm-evaluation-harness touches: the model, the tasks and their registration.

This file imports nothing: the hook loads it in every Python start.
"""
