"""Bootstrap, intervals, tests and measures of inequality. Knows no metric by name and no group."""
