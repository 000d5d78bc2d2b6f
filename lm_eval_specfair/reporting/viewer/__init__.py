"""Single requests, token by token: what was drafted, kept, replaced and thrown away."""
