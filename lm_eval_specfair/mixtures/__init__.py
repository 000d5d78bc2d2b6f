"""Mixtures of training data from measurements: shares of groups, and data sets drawn by them."""
