"""`backend=server`: a running server, asked by lm-eval's tasks over HTTP."""
