"""Log-likelihood requests: lm-eval scores them, the drafter reads along."""
