"""Running servers: how each is asked, what it counts, and what of that our records can say."""
