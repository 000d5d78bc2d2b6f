"""Who gets the speed-up when a model is served with speculative decoding?

A plugin for lm-evaluation-harness. This file imports nothing: the hook loads it in every Python
start of the environment that the package is installed in.
"""

__version__ = "0.1.0"
