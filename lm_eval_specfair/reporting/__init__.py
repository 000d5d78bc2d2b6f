"""Numbers in, what people look at out: tables, plots, pages. Never imports torch."""
