"""Log-likelihood requests: lm-eval scores them, and the drafter is measured on their texts."""
