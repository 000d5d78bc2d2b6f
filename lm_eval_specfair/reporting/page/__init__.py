"""The self-contained HTML page that reports share: its shell, plots and templates."""
