"""Training of heads: drafters that read the hidden states of a frozen target."""
