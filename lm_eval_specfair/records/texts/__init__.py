"""What records say of texts, token by token."""
